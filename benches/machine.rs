//! What the benches read from the machine: CPU time and memory of a process, medians.

use anyhow::{Context, Result};

/// CPU seconds (user and system) that a process has used so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process runs")?;
    let after_name = stat.rsplit_once(')').context("stat has a name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat has times")?.parse::<f64>()?) };
    // Fields 14 and 15 of proc(5), counted after pid and name; the kernel's USER_HZ is 100 on every Linux.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process runs")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("status has VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has a number")?.parse()?;
    Ok(kib * 1024)
}

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
