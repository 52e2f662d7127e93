//! Plaintext of sealed records: META, PARAMS, access units, EVENT, GAP. Spec: "Records".

use crate::base::units::{BootTime, MediaTime};
use crate::media::{AccessUnit, Gap, TrackId, TrackParams, UnitFlags};
use crate::seal::Meta;
use bytes::Bytes;
use minicbor::{Decode, Encode};

/// Bytes before the data of an access unit, in its first part only.
pub const UNIT_HEAD: usize = 20;
/// Data of an access unit are at most this long, all parts together.
pub const MAX_UNIT: usize = 8 * 1024 * 1024;

/// An opened record; parts are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Facts about the recording.
    Meta(Meta),
    /// Parameters of a track.
    Params(TrackParams),
    /// One access unit, whole.
    Unit(AccessUnit),
    /// Something happened.
    Event(Event),
    /// Something is missing.
    Gap(Gap),
}

/// Something that happened while recording: a mark, a button, a position.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Event {
    /// When.
    #[n(0)]
    pub at: BootTime,
    /// What, by the numbers in [`event`]; unknown ones are kept and shown as numbers.
    #[n(1)]
    pub kind: u16,
    /// For people, at most 256 bytes.
    #[n(2)]
    pub text: Option<String>,
    /// For programs, by kind, at most 1024 bytes.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Option<Vec<u8>>,
    /// Where.
    #[n(4)]
    pub position: Option<Position>,
}

/// Numbers of [`Event::kind`].
pub mod event {
    /// A person marked this moment.
    pub const MARK: u16 = 1;
    /// An alarm was raised.
    pub const ALARM: u16 = 2;
    /// A note in words.
    pub const NOTE: u16 = 3;
    /// Where the box or camera is.
    pub const POSITION: u16 = 4;
    /// The camera's own event, as it sent it.
    pub const CAMERA: u16 = 5;
    /// An input of the vehicle (door, blue light).
    pub const INPUT: u16 = 6;
}

/// A place on earth (WGS 84).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Position {
    /// Latitude, 1e-7 degrees, north positive.
    #[n(0)]
    pub latitude: i32,
    /// Longitude, 1e-7 degrees, east positive.
    #[n(1)]
    pub longitude: i32,
    /// Height above the ellipsoid, centimetres.
    #[n(2)]
    pub height: Option<i32>,
    /// Radius that holds 95 % of fixes, centimetres.
    #[n(3)]
    pub accuracy: Option<u32>,
    /// Speed over ground, centimetres a second.
    #[n(4)]
    pub speed: Option<u32>,
    /// Course over ground, hundredths of a degree from true north.
    #[n(5)]
    pub course: Option<u16>,
}

/// The 20 bytes before an access unit's data.
pub(crate) fn unit_head(unit: &AccessUnit) -> [u8; UNIT_HEAD] {
    let mut head = [0; UNIT_HEAD];
    let flags = unit.flags;
    head[0] = unit.track.0;
    head[1] = u8::from(flags.key)
        | u8::from(flags.disposable) << 1
        | u8::from(flags.loss_before) << 2
        | u8::from(flags.damaged) << 3
        | u8::from(flags.time_jump) << 4;
    head[4..12].copy_from_slice(&unit.pts.0.to_be_bytes());
    head[12..].copy_from_slice(&unit.captured.0.to_be_bytes());
    head
}

/// An access unit from its joined plaintext; `None` if it is shorter than its head or reserved bits are set.
pub(crate) fn unit_from(text: Bytes) -> Option<AccessUnit> {
    let [track, flags, 0, 0, times @ ..] = *text.first_chunk::<UNIT_HEAD>()? else { return None };
    let (pts, captured) = times.split_first_chunk::<8>()?;
    if flags >> 5 != 0 {
        return None;
    }
    Some(AccessUnit {
        track: TrackId(track),
        pts: MediaTime(i64::from_be_bytes(*pts)),
        captured: BootTime(u64::from_be_bytes(*captured.first_chunk()?)),
        flags: UnitFlags {
            key: flags & 1 != 0,
            disposable: flags & 2 != 0,
            loss_before: flags & 4 != 0,
            damaged: flags & 8 != 0,
            time_jump: flags & 16 != 0,
        },
        data: text.slice(UNIT_HEAD..),
    })
}
