mod db;
mod disk;
mod ranges;
pub use db::*;
pub use ranges::Ranges;
