//! Single files: what can be shown without a journal, and files that break a rule although the box's key signed them.

use crate::world::{self, RUN1, RUN2, box_a, file, id, organisation_key, push_signed, resign, segment, start, unit};
use minicbor::Encoder;
use mvb::base::chain::{Signer, SoftwareSigner};
use mvb::base::reason::Coded;
use mvb::base::units::{BootTime, Run};
use mvb::seal::frame::next_frame;
use mvb::seal::header::Header;
use mvb::seal::verify::{self, Report};
use mvb::seal::{EndReason, OpenError, Prev, Reader, Record, Sealer, SegmentKey};
use sha2::Digest as _;
use std::sync::Arc;

/// One file and what must be said about it.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Findings and notes of verification.
    pub codes: &'static [&'static str],
    pub notes: &'static [&'static str],
    /// `ok`, or the code of the first refusal when it is opened with the organisation's key.
    pub opens: &'static str,
}

fn ckpt(number: u32, records: u32, run: Run) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.map(4).and_then(|e| e.u8(0)?.u32(number)?.u8(1)?.u32(records)?.u8(2)).expect("encodes");
    e.encode(run).and_then(|e| e.u8(3)?.u64(7)).expect("encodes");
    e.into_writer()
}

fn end(reason: u8, records: u32, checkpoints: u32, run: Run) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.map(6).and_then(|e| e.u8(0)?.u8(reason)?.u8(1)?.u32(records)?.u8(2)?.u32(checkpoints)).expect("encodes");
    e.u8(3).and_then(|e| e.array(1)?.u8(1)?.u8(4)).expect("encodes");
    e.encode(run).and_then(|e| e.u8(5)?.u64(9)).expect("encodes");
    e.into_writer()
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("is there");
    bytes[at..at + old.len()].copy_from_slice(new);
}

#[allow(clippy::too_many_lines)] // a table
pub fn cases() -> Vec<Case> {
    let signer = box_a();
    let (frames, _) = segment(1, RUN1, Prev::First, &signer);
    let parts: Vec<Vec<u8>> = frames.iter().map(|frame| frame.bytes.to_vec()).collect();
    let whole = parts.concat();
    let mut cases = Vec::new();
    let mut case = |name, bytes, codes, notes, opens| cases.push(Case { name, bytes, codes, notes, opens });
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut parts = parts.clone();
        change(&mut parts);
        parts.concat()
    };

    // Signed by the box's key, and yet refused.
    let signed_header = |change: &dyn Fn(&mut Header)| {
        let (before, _) = Header::decode(&parts[0]).expect("a header");
        let mut header = before.clone();
        change(&mut header);
        let mut bytes = changed(&|parts| parts[0] = header.encode());
        for (old, new) in before.stanzas.iter().zip(&header.stanzas) {
            replace(&mut bytes, &old.mark(), &new.mark());
        }
        resign(&bytes, signer.as_ref())
    };
    case("commit_wrong", signed_header(&|h| h.commit.0[0] ^= 1), &[], &[], "open-bad-commitment");
    let other = segment(2, RUN1, Prev::First, &signer).0;
    let (other, _) = Header::decode(&other[0].bytes).expect("a header");
    let moved = signed_header(&|h| h.stanzas[0] = other.stanzas[0].clone());
    case("stanza_of_another_segment_signed", moved, &[], &[], "open-bad-stanza");
    let none = signed_header(&|h| h.stanzas[0].key.0[0] ^= 1);
    case("stanza_for_another_key_signed", none, &[], &[], "open-no-stanza");
    let bodies = changed(&|parts| {
        // Equal lengths: META of two texts would differ, two units of one size do not.
        let (a, b) = (parts[5][12..40].to_vec(), parts[6][12..40].to_vec());
        parts[5][12..40].copy_from_slice(&b);
        parts[6][12..40].copy_from_slice(&a);
    });
    case("record_bodies_exchanged_signed", resign(&bodies, signer.as_ref()), &[], &[], "open-bad-record");
    let order = resign(&changed(&|parts| parts.swap(5, 6)), signer.as_ref());
    case("record_numbers_out_of_order_signed", order, &["record-swapped"], &[], "open-out-of-order");
    let mut version = whole.clone();
    version[10] = 2;
    case("version_unknown", version, &["unknown-version"], &[], "unknown-version");
    let unknown = changed(&|parts| parts.insert(6, vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9]));
    let signed = resign(&unknown, signer.as_ref());
    case("type_unknown_signed", signed, &["unknown-type"], &[], "open-malformed");
    let reserved = resign(&changed(&|parts| parts[6][1] |= 0x80), signer.as_ref());
    case("reserved_flag_set_signed", reserved, &["record-flipped"], &[], "open-malformed");
    case(
        "ckpt_between_parts_signed",
        ckpt_between_parts(&parts, signer.as_ref()),
        &["record-flipped"],
        &[],
        "open-bad-record",
    );
    let (start_of, records) = (parts[..parts.len() - 1].concat(), 14);
    let mut late = start_of.clone();
    push_signed(&mut late, signer.as_ref(), 65, 0, id(1), &end(1, records, 4, RUN2));
    case("end_by_a_later_run_signed", late, &["end-inconsistent"], &[], "ok");
    let mut count = start_of.clone();
    push_signed(&mut count, signer.as_ref(), 65, 0, id(1), &end(1, records + 1, 4, RUN1));
    case("end_counts_wrong_signed", count, &["end-inconsistent"], &[], "ok");
    let mut jump = parts[..8].concat();
    push_signed(&mut jump, signer.as_ref(), 64, 2, id(1), &ckpt(2, 6, RUN1));
    push_signed(&mut jump, signer.as_ref(), 65, 0, id(1), &end(2, 6, 2, RUN1));
    case("ckpt_number_skipped_signed", jump, &["ckpt-dropped"], &[], "ok");
    case("ckpt_signature_of_high_s", changed(&|parts| high_s(&mut parts[8])), &["record-flipped"], &[], "ok");

    // Not signed by the box's key.
    let stranger: Arc<dyn Signer> = Arc::new(SoftwareSigner::from_bytes(&[0x55; 32]).expect("a scalar"));
    case("box_without_a_key", file(&segment(1, RUN1, Prev::First, &stranger).0), &["segment-foreign"], &[], "ok");
    case("box_claimed_by_another_key", resign(&whole, stranger.as_ref()), &["header-flipped"], &[], "ok");
    case("bytes_after_the_end", [&whole[..], b"x"].concat(), &["end-followed"], &[], "ok");
    let noncanonical = {
        let mut bytes = parts[0].clone();
        // Version 1 as 0x18 0x01: the same value, longer.
        bytes.splice(10..11, [0x18, 0x01]);
        let length = u32::try_from(bytes.len() - 8).expect("small");
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let bytes = changed(&|parts| parts[0].clone_from(&noncanonical));
    case("header_not_canonical", bytes, &["header-flipped"], &[], "header-malformed");
    case("magic_wrong", [b"MVS2", &whole[4..]].concat(), &["header-flipped"], &[], "not-a-segment");

    // Well formed.
    case("stops_after_a_ckpt", parts[..9].concat(), &[], &["segment-open"], "ok");
    let cut = parts[..10].concat();
    case("stops_inside_a_record", cut[..cut.len() - 7].to_vec(), &[], &["segment-open"], "ok");
    case("whole", whole.clone(), &[], &[], "ok");
    let skipped = changed(&|parts| parts.insert(6, vec![100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]));
    case("clear_type_to_be_skipped", resign(&skipped, signer.as_ref()), &[], &[], "ok");
    case("unit_in_parts", in_parts(&signer), &[], &[], "ok");
    cases
}

fn high_s(frame: &mut [u8]) {
    use p256::ecdsa::Signature;
    let at = frame.len() - 64;
    let low = Signature::from_slice(&frame[at..]).expect("a signature");
    let high = Signature::from_scalars(low.r(), -low.s()).expect("a signature");
    frame[at..].copy_from_slice(&high.to_bytes());
}

fn in_parts(signer: &Arc<dyn Signer>) -> Vec<u8> {
    let mut randomness = world::Seeded::new("keys of parts");
    let (mut sealer, mut frames) =
        Sealer::start_with(start(7, RUN1, Prev::First), &world::recipients(), signer.clone(), &mut randomness);
    frames.extend(sealer.unit(&unit(7, 0, 70_000)));
    frames.push(sealer.checkpoint(BootTime(71_000_000)));
    frames.push(sealer.end(EndReason::Finished, BootTime(71_000_001)).0);
    file(&frames)
}

fn ckpt_between_parts(parts: &[Vec<u8>], signer: &dyn Signer) -> Vec<u8> {
    let mut out = parts[..6].concat();
    // The first unit becomes the first part of one, and the next its last.
    let flags = out.len() - parts[5].len() + 1;
    out[flags] = 1;
    push_signed(&mut out, signer, 64, 1, id(1), &ckpt(1, 4, RUN1));
    let flags = out.len() + 1;
    out.extend(&parts[6]);
    out[flags] = 2;
    push_signed(&mut out, signer, 65, 0, id(1), &end(2, 5, 2, RUN1));
    out
}

pub fn report(bytes: &[u8]) -> Report {
    verify::file("segment.mvs", &mut &bytes[..], &world::keys()).expect("memory can be read")
}

/// Opens a file with the organisation's key: the first refusal's code or `ok`, and a hash over all units.
pub fn open(bytes: &[u8]) -> (&'static str, String) {
    let mut hash = sha2::Sha256::new();
    let code = match units(bytes, |unit| {
        hash.update([unit.track.0]);
        hash.update(unit.pts.0.to_be_bytes());
        hash.update(unit.captured.0.to_be_bytes());
        hash.update(&unit.data);
    }) {
        Ok(()) => "ok",
        Err(code) => code,
    };
    (code, data_encoding::HEXLOWER.encode(&hash.finalize()))
}

fn units(bytes: &[u8], mut each: impl FnMut(mvb::media::AccessUnit)) -> Result<(), &'static str> {
    let (header, len) = Header::decode(bytes).map_err(|error| error.code())?;
    let code = |error: OpenError| error.code();
    let mut reader = Reader::new(&bytes[..len], SegmentKey::unwrap(&header, &organisation_key()).map_err(code)?);
    let mut rest = &bytes[len..];
    loop {
        match next_frame(rest) {
            Ok(Some((_, frame))) => {
                rest = &rest[frame.len()..];
                if let Some(Record::Unit(unit)) = reader.frame(frame).map_err(code)? {
                    each(unit);
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => return Err("open-malformed"),
        }
    }
}

#[test]
fn every_file_is_judged_and_opened_as_listed() {
    let mut wrong = Vec::new();
    for case in cases() {
        let report = report(&case.bytes);
        let notes: Vec<_> = report.notes.iter().map(|note| note.code).collect();
        if report.codes() != case.codes || notes != case.notes {
            wrong.push(format!(
                "{}: {:?} {:?}, not {:?} {:?}",
                case.name,
                report.codes(),
                notes,
                case.codes,
                case.notes
            ));
        }
        let (opens, _) = open(&case.bytes);
        if opens != case.opens {
            wrong.push(format!("{}: opens {opens:?}, not {:?}", case.name, case.opens));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
