//! Opus (RFC 7587) and G.711 (RFC 3551): a packet is a unit.

use super::{Config, Output, Packet, Unit};

/// Its state: the configuration, for ever.
#[derive(Debug)]
pub struct Plain(Config);

impl Plain {
    /// A track of this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(config)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.0.clone()
    }

    /// The next packet.
    pub fn push(&mut self, packet: &Packet, out: &mut Vec<Output>) {
        if packet.payload.is_empty() {
            return;
        }
        out.push(Output::Unit(Unit {
            timestamp: packet.timestamp,
            key: true,
            disposable: false,
            loss_before: packet.loss_before,
            damaged: false,
            data: packet.payload.clone(),
        }));
    }
}
