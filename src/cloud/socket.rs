//! The unix socket between `mvb-cloud` commands and the running daemon.
//!
//! One request and one answer per connection, each `u32 big-endian length ‖ JSON`. The socket lies in the data folder
//! with mode 0600: who may read the data may command. Belongs here: framing and the two ends. Does not belong here:
//! what commands do (see [`super::command`]).

use crate::base::reason::{self, Coded};
use crate::base::tasks::Tasks;
use crate::cloud::command::{Command, Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the data folder.
pub const NAME: &str = "control.sock";

/// Longest message in bytes; recordings lists are the long ones.
const MAX_MESSAGE: u32 = 64 * 1024 * 1024;

/// A client that does not say or take anything for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at one time; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Nobody listens.
    #[error("mvb-cloud is not running with data folder {}: start it with `mvb-cloud run`, or give --data", data.display())]
    NotRunning { data: PathBuf, source: io::Error },
    /// The socket belongs to somebody else.
    #[error("no permission to command the mvb-cloud of {}: use the account that it runs as", data.display())]
    Permission { data: PathBuf, source: io::Error },
    /// Another process serves this data folder.
    #[error("another mvb-cloud already runs with data folder {}: stop it first", data.display())]
    AlreadyRunning { data: PathBuf },
    /// The connection broke.
    #[error("the connection to mvb-cloud broke: see its log")]
    Io(#[source] io::Error),
    /// The other end is of another version.
    #[error("mvb-cloud gave an answer that is not understood: both must be of the same version")]
    Malformed(#[source] serde_json::Error),
    /// The socket cannot be made.
    #[error("cannot make the socket {}", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

impl Coded for SocketError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "cloud-not-running",
            Self::Permission { .. } => "cloud-no-permission",
            Self::AlreadyRunning { .. } => "cloud-already-running",
            Self::Io(_) => "control-io",
            Self::Malformed(_) => "control-malformed",
            Self::Bind { .. } => "control-bind",
        }
    }
}

/// Sends one command to the daemon of a data folder and waits up to `patience` for its answer.
///
/// # Errors
/// `NotRunning`, `Permission`, `Io`, `Malformed`. A refusal by the daemon is a [`Reply::Refused`], not an error.
pub async fn ask(data: &Path, command: Command, patience: Duration) -> Result<Reply, SocketError> {
    let mut stream = UnixStream::connect(data.join(NAME)).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => SocketError::Permission { data: data.into(), source },
        _ => SocketError::NotRunning { data: data.into(), source },
    })?;
    write(&mut stream, &Request { command }).await?;
    match tokio::time::timeout(patience, read(&mut stream)).await {
        Ok(answer) => answer,
        Err(_) => Err(SocketError::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// The listening end.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Takes the data folder's socket; a stale one of a dead process is replaced.
    ///
    /// # Errors
    /// `AlreadyRunning`, `Bind`.
    pub async fn bind(data: &Path) -> Result<Self, SocketError> {
        let path = data.join(NAME);
        if UnixStream::connect(&path).await.is_ok() {
            return Err(SocketError::AlreadyRunning { data: data.into() });
        }
        let bind = |source| SocketError::Bind { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bind(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(bind)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(bind)?;
        Ok(Self { listener, path })
    }

    /// Serves until told to stop. `apply` gets the command and the caller's user id.
    pub async fn run<F, Fut>(self, tasks: Tasks, apply: F)
    where
        F: Fn(Command, u32) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let stop = tasks.stopping();
        let apply = Arc::new(apply);
        let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors: the next accept would fail at once, too.
                        tracing::warn!(error = %error, "control socket");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            let apply = apply.clone();
            tasks.spawn("control", async move {
                if let Err(error) = serve(stream, &*apply).await {
                    tracing::debug!(error = reason::chain(&error), "control client");
                }
                drop(slot);
            });
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve<F, Fut>(mut stream: UnixStream, apply: &F) -> Result<(), SocketError>
where
    F: Fn(Command, u32) -> Fut,
    Fut: Future<Output = Reply>,
{
    let uid = stream.peer_cred().map_err(SocketError::Io)?.uid();
    let late = |_| SocketError::Io(io::ErrorKind::TimedOut.into());
    let request: Request = tokio::time::timeout(PATIENCE, read(&mut stream)).await.map_err(late)??;
    let reply = apply(request.command, uid).await;
    tokio::time::timeout(PATIENCE, write(&mut stream, &reply)).await.map_err(late)?
}

async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), SocketError> {
    let bytes = serde_json::to_vec(message).map_err(SocketError::Malformed)?;
    let len = u32::try_from(bytes.len())
        .ok()
        .filter(|len| *len <= MAX_MESSAGE)
        .ok_or_else(|| SocketError::Io(io::Error::new(io::ErrorKind::InvalidData, "message too long")))?;
    stream.write_all(&len.to_be_bytes()).await.map_err(SocketError::Io)?;
    stream.write_all(&bytes).await.map_err(SocketError::Io)?;
    stream.flush().await.map_err(SocketError::Io)
}

async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, SocketError> {
    let len = stream.read_u32().await.map_err(SocketError::Io)?;
    if len > MAX_MESSAGE {
        return Err(SocketError::Io(io::Error::new(io::ErrorKind::InvalidData, "message too long")));
    }
    // Grows with what arrives: a length alone must not take memory.
    let mut bytes = Vec::new();
    stream.take(u64::from(len)).read_to_end(&mut bytes).await.map_err(SocketError::Io)?;
    serde_json::from_slice(&bytes).map_err(SocketError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_travels_and_a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let error = ask(dir.path(), Command::Status, PATIENCE).await.expect_err("nobody there");
        assert_eq!(error.code(), "cloud-not-running");
        let server = Server::bind(dir.path()).await.expect("binds");
        let mode = std::fs::metadata(dir.path().join(NAME)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Server::bind(dir.path()).await.err().map(|e| e.code()), Some("cloud-already-running"));
        let tasks = Tasks::default();
        tasks.spawn(
            "server",
            server.run(tasks.part(), |command, _| async move {
                assert!(matches!(command, Command::Status));
                Reply::Done
            }),
        );
        assert!(matches!(ask(dir.path(), Command::Status, PATIENCE).await.expect("answers"), Reply::Done));
        assert!(tasks.stop(PATIENCE).await);
        assert!(!dir.path().join(NAME).exists());
    }

    #[tokio::test]
    async fn a_length_alone_takes_no_memory_and_too_long_is_refused() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(&(MAX_MESSAGE + 1).to_be_bytes()).await.expect("writes");
        assert!(read::<Request>(&mut b).await.is_err());
    }
}
