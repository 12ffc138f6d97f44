//! Measuring: contestants in worlds of their own, the same load on each in turn, ratios with their spread.
//!
//! Absolute figures drift from machine to machine and from hour to hour; ratios from one alternated run are what
//! counts.

pub mod checks;
pub mod contest;
pub mod cost;
pub mod demo;
pub mod shortcut;
pub mod signals;
pub mod wrk;
