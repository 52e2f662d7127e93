//! A UDP link between box and cloud that a test can cut and heal: a forwarder in this process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Forwards datagrams to one address and the answers back. While down it swallows both directions.
pub struct Link {
    addr: SocketAddr,
    up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Link {
    pub async fn to(cloud: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("binds"));
        let addr = front.local_addr().expect("has an address");
        let up = Arc::new(AtomicBool::new(true));
        let task = tokio::spawn(forward(front, cloud, up.clone()));
        Self { addr, up, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(front: Arc<UdpSocket>, cloud: SocketAddr, up: Arc<AtomicBool>) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buf = vec![0; 65_536];
    loop {
        let Ok((len, from)) = front.recv_from(&mut buf).await else { continue };
        if !up.load(Ordering::SeqCst) {
            continue;
        }
        let back = match backs.get(&from) {
            Some(back) => back.clone(),
            None => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("binds"));
                backs.insert(from, back.clone());
                let (front, back_reader, up) = (front.clone(), back.clone(), up.clone());
                tokio::spawn(async move {
                    let mut buf = vec![0; 65_536];
                    while let Ok((len, _)) = back_reader.recv_from(&mut buf).await {
                        if up.load(Ordering::SeqCst) {
                            let _ = front.send_to(&buf[..len], from).await;
                        }
                    }
                });
                back
            }
        };
        let _ = back.send_to(&buf[..len], cloud).await;
    }
}
