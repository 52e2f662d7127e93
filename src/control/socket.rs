//! The unix socket between `mvbctl` and the daemon.
//!
//! One request and one answer per connection, each `u32 big-endian length ‖ JSON`. Mode 0660: the folder and the file's
//! group say who may command the box. Belongs here: framing and the two ends. Does not belong here: what commands do.

use crate::base::reason::{self, Coded};
use crate::base::tasks::Tasks;
use crate::control::command::{Command, Refusal, Reply, Request, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Longest request; commands are short.
const MAX_REQUEST: u32 = 256 * 1024;
/// Longest answer; lists of recordings are the long ones.
const MAX_REPLY: u32 = 64 * 1024 * 1024;
/// A client that does not say or take anything for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pairing takes up to 30 s per attempt (docs/spec/pairing.md).
const ANSWER: Duration = Duration::from_secs(60);
/// Connections at one time; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;

/// Why the socket does not work.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The connection broke or timed out.
    #[error("the control connection broke")]
    Io(#[source] io::Error),
    /// The other end is of another version.
    #[error("a control message is not understood: mvbd and mvbctl must be of the same version")]
    Malformed(#[source] serde_json::Error),
    /// A message is longer than allowed.
    #[error("a control message of {0} bytes is too long")]
    TooLong(u64),
    /// Another process serves this socket.
    #[error("another mvbd already serves {}: stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the socket {}: set control.socket to a place that mvbd may write", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Coded for SocketError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "control-io",
            Self::Malformed(_) => "control-malformed",
            Self::TooLong(_) => "control-too-long",
            Self::AlreadyRunning(_) => "already-running",
            Self::Bind { .. } => "control-bind",
        }
    }
}

/// Sends one command and waits for its answer (blocking: `mvbctl` has no runtime).
///
/// # Errors
/// The outer error: nothing listens there. Inner: `Io`, `Malformed`, `TooLong`.
pub fn ask(path: &Path, command: Command) -> Result<Result<Reply, SocketError>, io::Error> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    Ok(exchange(stream, command))
}

fn exchange(mut stream: std::os::unix::net::UnixStream, command: Command) -> Result<Reply, SocketError> {
    stream.set_read_timeout(Some(ANSWER)).map_err(SocketError::Io)?;
    let request = encode(&Request { version: VERSION, command }, MAX_REQUEST)?;
    stream.write_all(&request).map_err(SocketError::Io)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(SocketError::Io)?;
    let length = limit(u32::from_be_bytes(length), MAX_REPLY)?;
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes).map_err(SocketError::Io)?;
    serde_json::from_slice(&bytes).map_err(SocketError::Malformed)
}

/// The listening end.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Takes the socket; a stale one of a dead process is replaced.
    ///
    /// # Errors
    /// `AlreadyRunning`, `Bind`.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::AlreadyRunning(path.into()));
        }
        let bind = |source| SocketError::Bind { path: path.into(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(bind)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bind(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(bind)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(bind)?;
        Ok(Self { listener, path: path.into() })
    }

    /// Serves until told to stop.
    pub async fn run<F, Fut>(self, tasks: Tasks, apply: F)
    where
        F: Fn(Command) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let stop = tasks.stopping();
        let apply = Arc::new(apply);
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = async {
                    let slot = slots.clone().acquire_owned().await;
                    (slot, self.listener.accept().await)
                } => accepted,
            };
            let (slot, stream) = match accepted {
                (Ok(slot), Ok((stream, _))) => (slot, stream),
                (_, accepted) => {
                    // Out of file descriptors: the next accept would fail at once, too.
                    tracing::warn!(error = ?accepted.err(), "control socket");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
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
    F: Fn(Command) -> Fut,
    Fut: Future<Output = Reply>,
{
    let late = |_| SocketError::Io(io::ErrorKind::TimedOut.into());
    let request = tokio::time::timeout(PATIENCE, read::<serde_json::Value>(&mut stream)).await.map_err(late)??;
    // The version first: a command of another version need not parse.
    let version = request.get("version").and_then(serde_json::Value::as_u64);
    let reply = match (version, serde_json::from_value::<Request>(request)) {
        (Some(version), _) if version != u64::from(VERSION) => Reply::Refused(Refusal::new(
            "control-version",
            format!("mvbd speaks version {VERSION} of the command set, not {version}: use its own mvbctl"),
        )),
        (_, Ok(request)) => apply(request.command).await,
        (_, Err(error)) => Reply::Refused(Refusal::new("control-malformed", error.to_string())),
    };
    let bytes = encode(&reply, MAX_REPLY)?;
    tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await.map_err(late)?.map_err(SocketError::Io)
}

async fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, SocketError> {
    let length = limit(stream.read_u32().await.map_err(SocketError::Io)?, MAX_REQUEST)?;
    // Grows with what arrives: a length alone must not take memory.
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes).await.map_err(SocketError::Io)?;
    serde_json::from_slice(&bytes).map_err(SocketError::Malformed)
}

fn limit(length: u32, most: u32) -> Result<u64, SocketError> {
    if length > most { Err(SocketError::TooLong(length.into())) } else { Ok(length.into()) }
}

fn encode<T: Serialize>(message: &T, most: u32) -> Result<Vec<u8>, SocketError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(SocketError::Malformed)?;
    let body = bytes.len() - 4;
    let length = u32::try_from(body).ok().filter(|length| *length <= most);
    let length = length.ok_or(SocketError::TooLong(body as u64))?;
    if let Some(head) = bytes.first_chunk_mut::<4>() {
        *head = length.to_be_bytes();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_travels_and_a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("run/mvbd.sock");
        assert!(ask(&path, Command::Status).is_err());
        let server = Server::bind(&path).await.expect("binds");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o660);
        assert_eq!(Server::bind(&path).await.expect_err("taken").code(), "already-running");
        let tasks = Tasks::default();
        tasks.spawn("server", server.run(tasks.part(), |_| async { Reply::of(Ok::<_, Refusal>(7)) }));
        let (asked, other) = (path.clone(), path.clone());
        let reply = tokio::task::spawn_blocking(move || ask(&asked, Command::Status)).await.expect("runs");
        assert!(matches!(reply, Ok(Ok(Reply::Done(value))) if value == 7));

        let mut stream = UnixStream::connect(&other).await.expect("connects");
        let old = br#"{"version":9,"command":{"service":"make-coffee"}}"#;
        stream.write_all(&u32::try_from(old.len()).expect("short").to_be_bytes()).await.expect("writes");
        stream.write_all(old).await.expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        assert!(String::from_utf8_lossy(&answer).contains("control-version"));

        assert!(tasks.stop(PATIENCE).await);
        assert!(!path.exists());
    }
}
