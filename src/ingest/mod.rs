//! Cameras push their streams here: an RTSP 1.0 server for publishers (RFC 2326: ANNOUNCE, SETUP, RECORD).
//!
//! Bytes come in through [`server`] and `connection`; `request` reads messages, [`digest`] knows who may publish,
//! [`sdp`] what is announced, [`track`] and [`depack`] turn packets into access units on the box's timeline, and a
//! [`crate::media::Feed`] takes them. Every frame that arrived is delivered, the last one too, flagged where parts are
//! missing. There is no anonymous path. Credentials arrive as validated data; this room knows no roster and no files.

pub mod cameras;
mod connection;
pub mod depack;
pub mod digest;
mod request;
pub mod sdp;
pub mod server;
pub mod track;
mod transport;

pub use cameras::{Camera, Cameras, Ha1};
pub use server::{CameraStatus, Config, Server, Status};
