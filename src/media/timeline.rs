//! Camera time → box time: one track's RTP timestamps on the boot clock's timeline.
//!
//! Media time is boot time in the track's ticks, so that tracks, sessions and drops of one recording fall on one line by
//! themselves, with gaps as long as they were. Absorbed without a reset: the 32-bit wrap, jumps of hours in either
//! direction, timestamps that stand still, pre-roll delivered faster than real time, drift of the camera's crystal.

use crate::base::units::{BootTime, MediaTime};

/// A step further than this is a jump of the camera's clock, not a pause: 10 s.
const JUMP_SECONDS: i64 = 10;
/// Reordered pictures step back by less than this; further is a jump: 2 s, 16 pictures at 8 a second.
const BACK_SECONDS: i64 = 2;
/// The first step of a sender that started again means something if it is this close to the time that passed: 1 s.
const RESTART_SECONDS: i64 = 1;
/// The estimate of delivery delay may grow by this per elapsed time: crystals are good to 100 ppm.
const DRIFT: u64 = 10_000;

/// A timestamp on the box's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Continuous media time.
    pub pts: MediaTime,
    /// Estimated capture.
    pub captured: BootTime,
    /// The camera's clock jumped or stood still before this.
    pub jumped: bool,
}

/// One track of one session.
#[derive(Debug)]
pub struct Timeline {
    timescale: u32,
    last: Option<Last>,
    restarted: bool,
}

#[derive(Debug)]
struct Last {
    rtp: u32,
    pts: i64,
    arrived: BootTime,
    /// Media time of the first of the units whose timestamp stands still.
    stood: Option<i64>,
    /// Smallest seen difference between arrival and media time, microseconds: how late a unit is at least.
    delay: i64,
}

impl Timeline {
    /// `timescale` = ticks per second, > 0.
    #[must_use]
    pub fn new(timescale: u32) -> Self {
        Self { timescale: timescale.max(1), last: None, restarted: false }
    }

    /// The sender started again (another SSRC, another count): its timestamps need not go on from the last.
    pub fn restart(&mut self) {
        self.restarted = true;
    }

    /// Maps a unit's timestamp. `start` = where the first unit of the track falls, if something better than its arrival
    /// is known (sender reports tie tracks together).
    pub fn map(&mut self, rtp: u32, arrived: BootTime, start: Option<BootTime>) -> Mapped {
        let (timescale, restarted) = (i64::from(self.timescale), std::mem::take(&mut self.restarted));
        let Some(last) = &mut self.last else {
            let pts = self.ticks(start.unwrap_or(arrived).0);
            let delay = signed(arrived.0) - self.micros(pts);
            self.last = Some(Last { rtp, pts, arrived, stood: None, delay });
            let captured = BootTime(u64::try_from(self.micros(pts)).unwrap_or(0).min(arrived.0));
            return Mapped { pts: MediaTime(pts), captured, jumped: false };
        };
        // Reordered pictures step back a little; both directions count from the last unit.
        let straight = i64::from(rtp.wrapping_sub(last.rtp).cast_signed());
        let elapsed = signed(arrived.0) - signed(last.arrived.0);
        let elapsed_ticks = i128::from(elapsed.max(0)) * i128::from(self.timescale) / 1_000_000;
        let elapsed_ticks = i64::try_from(elapsed_ticks).unwrap_or(i64::MAX);
        // A clock that stood still goes on where it stood, or has caught up with the time that passed meanwhile.
        let caught_up = last.stood.map(|stood| stood + straight - last.pts);
        let step = match caught_up {
            Some(step) if (step - elapsed_ticks).abs() < (straight - elapsed_ticks).abs() => step.max(1),
            _ => straight,
        };
        let jumped = straight == 0
            || step < -BACK_SECONDS * timescale
            // A camera that paused for minutes and kept its clock running has not jumped.
            || step > JUMP_SECONDS * timescale && (step - elapsed_ticks).abs() > JUMP_SECONDS * timescale
            || restarted && (step <= 0 || (step - elapsed_ticks).abs() > RESTART_SECONDS * timescale);
        let stood = (straight == 0).then(|| last.stood.unwrap_or(last.pts));
        let pts = last.pts + if jumped { elapsed_ticks.max(1) } else { step };
        let media = i128::from(pts) * 1_000_000 / i128::from(self.timescale);
        let media = i64::try_from(media).unwrap_or(i64::MAX);
        let late = signed(arrived.0) - media;
        let drift = elapsed.max(0) / i64::try_from(DRIFT).unwrap_or(i64::MAX);
        last.delay = if jumped { late } else { (last.delay + drift).min(late) };
        let captured = media.saturating_add(last.delay).min(signed(arrived.0));
        (last.rtp, last.pts, last.arrived, last.stood) = (rtp, pts, arrived, stood);
        Mapped { pts: MediaTime(pts), captured: BootTime(u64::try_from(captured).unwrap_or(0)), jumped }
    }

    fn ticks(&self, micros: u64) -> i64 {
        i64::try_from(u128::from(micros) * u128::from(self.timescale) / 1_000_000).unwrap_or(i64::MAX)
    }

    fn micros(&self, ticks: i64) -> i64 {
        i64::try_from(i128::from(ticks) * 1_000_000 / i128::from(self.timescale)).unwrap_or(i64::MAX)
    }
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(seconds: f64) -> BootTime {
        BootTime((seconds * 1e6) as u64)
    }

    #[test]
    fn a_wrap_is_one_step_like_any_other() {
        let mut line = Timeline::new(90_000);
        let first = line.map(u32::MAX - 1000, at(100.0), None);
        let second = line.map(2599, at(100.04), None);
        assert_eq!(second.pts.0 - first.pts.0, 3600);
        assert!(!second.jumped);
        assert_eq!(first.pts.0, 100 * 90_000);
    }

    #[test]
    fn jumps_of_hours_and_frozen_clocks_stay_continuous_and_are_flagged() {
        for jump in [90_000 * 3600 * 3_u32, 0_u32.wrapping_sub(90_000 * 7200)] {
            let mut line = Timeline::new(90_000);
            let first = line.map(5000, at(10.0), None);
            let second = line.map(5000_u32.wrapping_add(jump), at(10.04), None);
            assert!(second.jumped);
            assert!((second.pts.0 - first.pts.0 - 3600).abs() <= 1);
            let third = line.map(5000_u32.wrapping_add(jump).wrapping_add(3600), at(10.08), None);
            assert!(!third.jumped);
            assert_eq!(third.pts.0 - second.pts.0, 3600);
        }
        let mut line = Timeline::new(90_000);
        let mut before = line.map(1, at(1.0), None);
        for n in 1..100 {
            let next = line.map(1, at(1.0 + 0.04 * f64::from(n)), None);
            assert!(next.jumped && next.pts > before.pts);
            before = next;
        }
        assert!((before.pts.0 - 90_000 * 5 + 3600).abs() < 200, "{}", before.pts.0);
    }

    #[test]
    fn a_clock_that_stood_still_for_long_may_go_on_or_catch_up() {
        for (thawed, expected) in [(3600, 3600), (90_000 * 60, 3600), (90_000 * 60 - 1800, 1800)] {
            let mut line = Timeline::new(90_000);
            line.map(5000, at(10.0), None);
            let frozen = (1..1500).map(|n| line.map(5000, at(10.0 + 0.04 * f64::from(n)), None)).last();
            let frozen = frozen.expect("the last frozen one");
            let next = line.map(5000 + thawed, at(70.0), None);
            assert!(!next.jumped);
            assert!((next.pts.0 - frozen.pts.0 - expected).abs() <= 100, "{thawed}: {}", next.pts.0 - frozen.pts.0);
        }
    }

    #[test]
    fn a_camera_that_sets_its_clock_back_by_seconds_has_jumped() {
        let mut line = Timeline::new(90_000);
        let first = line.map(90_000 * 20, at(10.0), None);
        let second = line.map(90_000 * 15, at(10.04), None);
        assert!(second.jumped);
        assert!((second.pts.0 - first.pts.0 - 3600).abs() <= 1);
    }

    #[test]
    fn a_sender_that_starts_again_goes_on_in_the_time_that_passed() {
        // Timestamps from zero, ahead of time, and as before.
        for (rtp, jumped, expected) in [(0, true, 3600), (90_000 * 8, true, 3600), (90_000 * 5 + 3601, false, 3601)] {
            let mut line = Timeline::new(90_000);
            let first = line.map(90_000 * 5, at(10.0), None);
            line.restart();
            let second = line.map(rtp, at(10.04), None);
            assert_eq!(second.jumped, jumped);
            assert!((second.pts.0 - first.pts.0 - expected).abs() <= 1);
            assert!(!line.map(rtp + 3600, at(10.08), None).jumped);
        }
    }

    #[test]
    fn a_long_pause_of_a_running_clock_is_no_jump() {
        let mut line = Timeline::new(90_000);
        let first = line.map(0, at(10.0), None);
        let second = line.map(90_000 * 60, at(70.0), None);
        assert!(!second.jumped);
        assert_eq!(second.pts.0 - first.pts.0, 90_000 * 60);
    }

    #[test]
    fn a_burst_of_pre_roll_keeps_its_spacing_and_is_never_captured_in_the_future() {
        let mut line = Timeline::new(90_000);
        let mut last = None;
        for n in 0..750_u32 {
            let arrived = BootTime(100 * SECOND + u64::from(n) * SECOND / 750);
            let mapped = line.map(n * 3600, arrived, None);
            assert!(!mapped.jumped && mapped.captured <= arrived);
            if let Some(last) = last {
                assert_eq!(mapped.pts.0 - last, 3600_i64);
            }
            last = Some(mapped.pts.0);
        }
    }

    #[test]
    fn capture_follows_media_time_through_jitter_and_drift() {
        let mut line = Timeline::new(90_000);
        line.map(0, at(50.0), None);
        // 300 ms late once: the capture time does not move with it.
        let late = line.map(3600, at(50.34), None);
        assert!(late.captured.0 < at(50.05).0, "{:?}", late.captured);
        // A crystal that is 50 ppm slow for an hour: capture stays near arrival.
        let mut worst = 0;
        for n in 2..3600_u32 {
            let arrived = BootTime(50 * SECOND + u64::from(n) * SECOND * 20_001 / 20_000);
            let mapped = line.map(n * 90_000, arrived, None);
            worst = worst.max(arrived.0 - mapped.captured.0);
        }
        assert!(worst < 50_000, "{worst} µs");
    }

    #[test]
    fn reordered_pictures_step_back() {
        let mut line = Timeline::new(90_000);
        let steps = [0_u32, 10_800, 3600, 7200, 21_600];
        let pts: Vec<_> = steps.iter().map(|rtp| line.map(*rtp, at(1.0), None).pts.0 - 90_000).collect();
        assert_eq!(pts, [0, 10_800, 3600, 7200, 21_600]);
    }
}
