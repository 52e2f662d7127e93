//! Control messages on a stream: framing only, both ends use it.

use super::{MAX_CONTROL, Message, Violation};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Reads one control message; `Ok(None)` = one that is skipped. `Err(Ok)` = the stream ended between messages.
pub async fn read_one(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<Option<Message>, Result<(), Violation>> {
    let len = reader.read_u32().await.map_err(|_| Ok(()))? as usize;
    if !(1..=MAX_CONTROL).contains(&len) {
        return Err(Err(Violation::Length));
    }
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).await.map_err(|_| Ok(()))?;
    Message::decode(&bytes).map_err(Err)
}

/// Writes one control message.
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), message: Message) -> io::Result<()> {
    let bytes = message.encode();
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    writer.write_all(&[&len.to_be_bytes()[..], &bytes].concat()).await
}

/// Writes what comes; ends when the queue or the stream does.
pub async fn write_all(mut writer: Box<dyn AsyncWrite + Send + Unpin>, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        if write(&mut writer, message).await.is_err() {
            return;
        }
    }
}
