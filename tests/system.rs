//! Against the programs that people use: real encoders, players and cameras.

#[path = "system/export.rs"]
mod export;
#[path = "system/ingest.rs"]
mod ingest;
