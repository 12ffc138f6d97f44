//! Bulk TCP by iperf3, and what it costs the whole machine.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::{Namespace, program};
use serde_json::Value;

use crate::machine;

/// Which way the bytes go, seen from the server behind the published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// What one run of iperf3 came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bulk {
    pub gbit_per_second: f64,
    /// Of all CPUs and everything that ran on them, for 10^9 bytes.
    pub cpu_seconds_per_gb: f64,
}

/// How long a server may be busy with the last client.
const BUSY: Duration = Duration::from_secs(3);

/// Sends over `streams` connections between `client` and a server at `address`; panics when that cannot be done.
pub fn run(client: &Namespace, address: (IpAddr, u16), direction: Direction, streams: u32, seconds: u32) -> Bulk {
    let start = Instant::now();
    loop {
        let mut command = client.command("iperf3");
        let (host, port) = (address.0.to_string(), address.1.to_string());
        command.args(["--json", "-c", &host, "-p", &port, "-t", &seconds.to_string(), "-P", &streams.to_string()]);
        if direction == Direction::Out {
            command.arg("-R");
        }
        let before = machine::busy_seconds();
        let output = program::output_of(&mut command);
        let busy = machine::busy_seconds() - before;
        let report = program::text(&output.stdout);
        match parse(&report) {
            Ok((gbit_per_second, bytes)) => return Bulk { gbit_per_second, cpu_seconds_per_gb: busy / (bytes / 1e9) },
            Err(error) => assert!(start.elapsed() < BUSY, "iperf3: {error}{}", program::text(&output.stderr)),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Gigabits per second and bytes that arrived, or what went wrong.
fn parse(report: &str) -> Result<(f64, f64), String> {
    let report: Value = serde_json::from_str(report).map_err(|error| format!("no report: {error}; "))?;
    if let Some(error) = report["error"].as_str() {
        return Err(error.to_owned());
    }
    let received = &report["end"]["sum_received"];
    let rate = received["bits_per_second"].as_f64().filter(|rate| *rate > 0.0);
    rate.map(|rate| rate / 1e9).zip(received["bytes"].as_f64()).ok_or_else(|| "nothing arrived".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts() {
        let report = r#"{"end": {"sum_sent": {"bits_per_second": 9e9, "bytes": 9},
                                 "sum_received": {"bits_per_second": 8e9, "bytes": 1000000000}}}"#;
        assert_eq!(parse(report), Ok((8.0, 1e9)));
    }

    #[test]
    fn what_iperf3_complains_about_is_the_error() {
        let busy = r#"{"end": {}, "error": "the server is busy running a test. try again later"}"#;
        assert_eq!(parse(busy), Err("the server is busy running a test. try again later".to_owned()));
        assert_eq!(parse(r#"{"end": {}}"#), Err("nothing arrived".to_owned()));
        assert!(parse("").is_err());
    }
}
