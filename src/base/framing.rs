//! Messages on a stream: `u32 big-endian length ‖ that many bytes`, never empty. Pairing and relay use it.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream ended or failed.
    #[error("the stream broke")]
    Io(#[source] io::Error),
    /// The length is zero or above the limit; nothing was read for it.
    #[error("a message of {0} bytes")]
    Length(usize),
}

/// Reads one message of 1 to `max` bytes.
///
/// # Errors
/// See [`Error`].
pub async fn read(from: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>, Error> {
    let len = from.read_u32().await.map_err(Error::Io)? as usize;
    if !(1..=max).contains(&len) {
        return Err(Error::Length(len));
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).await.map_err(Error::Io)?;
    Ok(bytes)
}

/// Writes one message and flushes.
///
/// # Errors
/// The stream's; a message that a length field cannot hold.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&[&len.to_be_bytes()[..], bytes].concat()).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_survives_and_lengths_are_kept_within_bounds() {
        let (mut near, mut far) = tokio::io::duplex(64);
        write(&mut near, b"abc").await.expect("writes");
        assert_eq!(read(&mut far, 3).await.expect("reads"), b"abc");
        write(&mut near, b"abcd").await.expect("writes");
        assert!(matches!(read(&mut far, 3).await, Err(Error::Length(4))));
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&[0; 4]).await.expect("writes");
        assert!(matches!(read(&mut far, 3).await, Err(Error::Length(0))));
        near.write_all(&[0, 0, 0, 2, 7]).await.expect("writes");
        drop(near);
        assert!(matches!(read(&mut far, 3).await, Err(Error::Io(_))));
    }
}
