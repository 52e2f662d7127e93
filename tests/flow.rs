//! The whole product as it runs: two processes, real sockets, real files, real cameras; power cuts, crashes, hostile peers.

// Other processes run in real time: what they do is polled for, and their moments of death are slept to.
#![allow(clippy::disallowed_methods)]

#[path = "flow/camera.rs"]
mod camera;
#[path = "flow/crash.rs"]
mod crash;
#[path = "flow/drive.rs"]
mod drive;
#[path = "flow/footage.rs"]
mod footage;
#[path = "flow/hostile.rs"]
mod hostile;
#[path = "flow/link.rs"]
mod link;
#[path = "flow/moments.rs"]
mod moments;
#[path = "flow/secrecy.rs"]
mod secrecy;
#[path = "flow/viewer.rs"]
mod viewer;
#[path = "flow/world.rs"]
mod world;
