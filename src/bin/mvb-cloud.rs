//! The box's counterpart in the cloud.

fn main() {}
