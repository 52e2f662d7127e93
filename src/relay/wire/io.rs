//! Control messages on a stream, for both ends.

use super::{MAX_CONTROL, Message, Violation};
use crate::base::framing;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Reads one control message; `Ok(None)` = one that is skipped. `Err(Ok)` = the stream ended between messages.
pub async fn read_one(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<Message>, Result<(), Violation>> {
    let bytes = framing::read(reader, MAX_CONTROL).await.map_err(|error| match error {
        framing::Error::Io(_) => Ok(()),
        framing::Error::Length(_) => Err(Violation::Length),
    })?;
    Message::decode(&bytes).map_err(Err)
}

/// Writes one control message.
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), message: Message) -> io::Result<()> {
    framing::write(writer, &message.encode()).await
}

/// Writes what comes; ends when the queue or the stream does.
pub async fn write_all(mut writer: Box<dyn AsyncWrite + Send + Unpin>, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        if write(&mut writer, message).await.is_err() {
            return;
        }
    }
}
