//! Somebody who looks at a camera on the cloud's local page: a WebSocket that counts what it is given.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the fragments that it receives, until dropped.
pub struct Viewer {
    stream: TcpStream,
    fragments: Arc<AtomicU64>,
}

impl Viewer {
    pub fn open(page: u16, camera: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", page)).expect("the page listens");
        let request = format!(
            "GET /api/live/{camera} HTTP/1.1\r\nHost: 127.0.0.1:{page}\r\nOrigin: http://127.0.0.1:{page}\r\nUpgrade: \
             websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sends");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
        let fragments = Arc::new(AtomicU64::new(0));
        let (mut reader, counted) = (stream.try_clone().expect("clones"), fragments.clone());
        std::thread::spawn(move || {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if reader.read_exact(&mut byte).is_err() {
                    return;
                }
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
            while let Ok(binary) = message(&mut reader) {
                counted.fetch_add(u64::from(binary), Ordering::SeqCst);
            }
        });
        Self { stream, fragments }
    }

    pub fn fragments(&self) -> u64 {
        self.fragments.load(Ordering::SeqCst)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Reads one frame (RFC 6455, unmasked as servers send); whether it was binary.
fn message(reader: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut more = [0; 2];
            reader.read_exact(&mut more)?;
            u64::from(u16::from_be_bytes(more))
        }
        127 => {
            let mut more = [0; 8];
            reader.read_exact(&mut more)?;
            u64::from_be_bytes(more)
        }
        small => u64::from(small),
    };
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    Ok(head[0] & 0x0f == 2)
}
