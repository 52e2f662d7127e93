//! How fast access units are sealed, beside OpenSSL's ciphers on the same core in the same run.

use crate::machine::median;
use anyhow::{Context, Result, ensure};
use mvb::base::chain::SoftwareSigner;
use mvb::base::ids::{BootId, CameraId, OrganisationId, RecordingId, SegmentId};
use mvb::base::units::{BootTime, MediaTime, Run, TimeSource, TimeStatement, WallTime};
use mvb::media::{AccessUnit, TrackId, UnitFlags};
use mvb::seal::recipients::RecipientRole;
use mvb::seal::{EndReason, Meta, Prev, RecipientSecret, Recipients, Sealer, SegmentFlags, SegmentStart};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// Bytes per access unit, one full part.
const UNIT: usize = 64 * 1024 - 20;
const ROUNDS: usize = 5;

pub fn run() -> Result<()> {
    let mut rows = Vec::new();
    for _ in 0..ROUNDS {
        rows.push((openssl("aes-256-gcm")?, openssl("sha256")?, aead(), sha(), seal()?));
    }
    let of = |pick: fn(&(f64, f64, f64, f64, f64)) -> f64| median(rows.iter().map(pick).collect());
    let (gcm, sha256, aead, sha, seal) = (of(|r| r.0), of(|r| r.1), of(|r| r.2), of(|r| r.3), of(|r| r.4));
    let summed = 1.0 / (1.0 / gcm + 1.0 / sha256);
    // What is left after cipher and hash: laying out, copying, signing checkpoints.
    let rest_share = 1.0 - seal * (1.0 / aead + 1.0 / sha);
    let line = serde_json::json!({
        "bench": "seal", "unit_bytes": UNIT, "rounds": ROUNDS,
        "openssl_aes_256_gcm_gbps": gcm, "openssl_sha256_gbps": sha256, "openssl_summed_gbps": summed,
        "aead_gbps": aead, "sha256_gbps": sha, "seal_gbps": seal,
        "aead_over_openssl": aead / gcm, "aead_aim": 0.5,
        "seal_over_openssl_summed": seal / summed, "seal_aim": 0.8,
        "time_share": {"aead": seal / aead, "sha256": seal / sha, "rest": rest_share},
    });
    println!("{line}");
    Ok(())
}

/// GB/s of OpenSSL on blocks of 64 KiB.
fn openssl(cipher: &str) -> Result<f64> {
    let out = Command::new("openssl")
        .args(["speed", "-mr", "-seconds", "1", "-bytes", "65536", "-evp", cipher])
        .output()
        .context("openssl runs")?;
    ensure!(out.status.success(), "openssl speed failed");
    let text = String::from_utf8(out.stdout)?;
    let line = text.lines().find(|line| line.starts_with("+F:")).context("openssl speed prints +F:")?;
    let bytes: f64 = line.rsplit(':').next().context("+F: has a figure")?.parse()?;
    Ok(bytes / 1e9)
}

/// The cipher as the sealer uses it: in place, 64 KiB a call.
fn aead() -> f64 {
    use aes_gcm::aead::{AeadInOut, KeyInit};
    let cipher = aes_gcm::Aes256Gcm::new(&[7; 32].into());
    let mut data = vec![7_u8; UNIT];
    let start = Instant::now();
    for n in 0..4_000_u32 {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&n.to_be_bytes());
        let tag = cipher.encrypt_inout_detached(&nonce.into(), b"head", data.as_mut_slice().into());
        std::hint::black_box(tag.expect("seals"));
    }
    gbps(UNIT * 4_000, start)
}

fn sha() -> f64 {
    use sha2::Digest;
    let data = vec![7_u8; UNIT];
    let mut hash = sha2::Sha256::new();
    let start = Instant::now();
    for _ in 0..4_000 {
        hash.update(&data);
    }
    std::hint::black_box(hash.finalize());
    gbps(UNIT * 4_000, start)
}

fn seal() -> Result<f64> {
    let secret = RecipientSecret::generate();
    let keys =
        vec![secret.public(RecipientRole::Organisation), RecipientSecret::generate().public(RecipientRole::Recovery)];
    let recipients = Recipients::new(OrganisationId::random(), keys).context("usable keys")?;
    let signer = Arc::new(SoftwareSigner::generate());
    let data = bytes::Bytes::from(vec![7_u8; UNIT]);
    let unit = AccessUnit {
        track: TrackId(0),
        pts: MediaTime(0),
        captured: BootTime(0),
        flags: UnitFlags { key: true, ..UnitFlags::default() },
        data,
    };
    let start = Instant::now();
    let mut sealed = 0;
    // Ten segments of 400 full parts (25 MB), a checkpoint every 16 (1 MB, as a second of 8 Mb/s).
    for _ in 0..10 {
        let (mut sealer, _) = Sealer::start(segment_start(), &recipients, signer.clone());
        for n in 0..400 {
            sealed += std::hint::black_box(sealer.unit(&unit)).iter().map(|f| f.bytes.len()).sum::<usize>();
            if n % 16 == 15 {
                std::hint::black_box(sealer.checkpoint(BootTime(n)));
            }
        }
        std::hint::black_box(sealer.end(EndReason::Next, BootTime(400)));
    }
    Ok(gbps(sealed, start))
}

fn segment_start() -> SegmentStart {
    SegmentStart {
        segment: SegmentId::random(),
        run: Run { boot: BootId::random(), start: 1 },
        at: BootTime(0),
        camera: CameraId::random(),
        recording: RecordingId::random(),
        flags: SegmentFlags::default(),
        meta: Meta {
            organisation: "Bench".into(),
            box_name: "Bench".into(),
            camera: "Bench".into(),
            officer: None,
            purpose: String::new(),
            legal_basis: String::new(),
            retention: String::new(),
            incident: None,
            firmware: env!("CARGO_PKG_VERSION").into(),
            time: TimeStatement { at: BootTime(0), wall: WallTime(0), source: TimeSource::Unknown, error_ms: u64::MAX },
        },
        params: Vec::new(),
        prev: Prev::First,
    }
}

fn gbps(bytes: usize, since: Instant) -> f64 {
    bytes as f64 / since.elapsed().as_secs_f64() / 1e9
}
