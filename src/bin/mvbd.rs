//! The box.

fn main() {}
