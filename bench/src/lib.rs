//! Measuring: contestants in worlds of their own, the same load on each in turn, ratios with their spread.
//!
//! Absolute figures drift from machine to machine and from hour to hour; ratios from one alternated run are what
//! counts.

pub mod aims;
pub mod attempt;
pub mod checks;
pub mod cni;
pub mod comparison;
mod container_aims;
pub mod contest;
pub mod cost;
mod datagrams;
pub mod demo;
pub mod docker_memory;
pub mod docker_run;
mod engine;
mod engine_answers;
pub mod iperf;
pub mod kind;
pub mod machine;
pub mod measuring;
mod packets;
mod plain;
pub mod plan;
mod plot;
mod program_maps;
pub mod programs;
pub mod progress;
pub mod publishing;
pub mod record;
pub mod report;
pub mod runner;
pub mod spread;
pub mod stack;
pub mod stage;
pub mod table;
pub mod tables;
pub mod traffic;
pub mod work;
pub mod wrk;
