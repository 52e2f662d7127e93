//! Units → RTP packets (RFC 3550, RFC 6184, RFC 3640), with everything that a sender may choose left to the script.

/// A sender of one track. All fields may be changed between any two units.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Of each packet.
    pub payload_type: u8,
    /// Of each packet.
    pub ssrc: u32,
    /// Of the next packet.
    pub sequence: u16,
    /// Largest RTP packet, header included.
    pub mtu: usize,
    /// Small NAL units of a picture share a STAP-A.
    pub aggregates: bool,
    /// The last packet of a picture has the marker.
    pub marks: bool,
}

const HEADER: usize = 12;

impl Sender {
    /// Marker, no aggregation, 1400-byte packets.
    #[must_use]
    pub fn new(payload_type: u8, ssrc: u32, sequence: u16) -> Self {
        Self { payload_type, ssrc, sequence, mtu: 1400, aggregates: false, marks: true }
    }

    /// The packets of one picture: single NAL units, STAP-A where allowed, FU-A where one is larger than a packet.
    pub fn picture(&mut self, nals: &[Vec<u8>], timestamp: u32) -> Vec<Vec<u8>> {
        let room = self.mtu - HEADER;
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let mut at = 0;
        while at < nals.len() {
            let nal = &nals[at];
            if nal.len() > room {
                payloads.extend(fragments(nal, room));
                at += 1;
                continue;
            }
            let mut together = 1 + 2 + nal.len();
            let mut end = at + 1;
            while self.aggregates && end < nals.len() && together + 2 + nals[end].len() <= room {
                together += 2 + nals[end].len();
                end += 1;
            }
            payloads.push(if end - at > 1 { aggregate(&nals[at..end]) } else { nal.clone() });
            at = end;
        }
        let last = payloads.len().saturating_sub(1);
        payloads
            .iter()
            .enumerate()
            .map(|(n, payload)| self.packet(payload, timestamp, self.marks && n == last))
            .collect()
    }

    /// One packet of AAC-hbr with whole units.
    pub fn sounds(&mut self, units: &[Vec<u8>], timestamp: u32) -> Vec<u8> {
        let bits = u16::try_from(units.len() * 16).unwrap_or(u16::MAX);
        let mut payload = bits.to_be_bytes().to_vec();
        for unit in units {
            payload.extend((u16::try_from(unit.len()).unwrap_or(0) << 3).to_be_bytes());
        }
        payload.extend(units.concat());
        self.packet(&payload, timestamp, true)
    }

    /// Any payload.
    pub fn packet(&mut self, payload: &[u8], timestamp: u32, marker: bool) -> Vec<u8> {
        let mut packet = vec![0x80, self.payload_type | u8::from(marker) << 7];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        packet
    }
}

fn fragments(nal: &[u8], room: usize) -> Vec<Vec<u8>> {
    let (indicator, kind) = (nal[0] & 0xe0 | 28, nal[0] & 0x1f);
    let body = nal[1..].chunks(room - 2);
    let last = body.len() - 1;
    body.enumerate()
        .map(|(n, part)| {
            let flags = u8::from(n == 0) << 7 | u8::from(n == last) << 6;
            [&[indicator, flags | kind], part].concat()
        })
        .collect()
}

fn aggregate(nals: &[Vec<u8>]) -> Vec<u8> {
    let importance = nals.iter().map(|nal| nal[0] & 0x60).max().unwrap_or(0);
    let mut payload = vec![importance | 24];
    for nal in nals {
        payload.extend(u16::try_from(nal.len()).unwrap_or(u16::MAX).to_be_bytes());
        payload.extend(nal);
    }
    payload
}

/// A sender report that ties RTP to NTP time, and BYE if the sender leaves.
#[must_use]
pub fn report(ssrc: u32, ntp: u64, rtp: u32, bye: bool) -> Vec<u8> {
    let mut bytes = vec![0x80, 200, 0, 6];
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(ntp.to_be_bytes());
    bytes.extend(rtp.to_be_bytes());
    bytes.extend([0; 8]);
    if bye {
        bytes.extend([0x81, 203, 0, 1]);
        bytes.extend(ssrc.to_be_bytes());
    }
    bytes
}
