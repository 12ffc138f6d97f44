//! Request rates and latencies by wrk: one thread, 32 connections.

use std::fs;
use std::path::Path;

use netpath_tests::{Namespace, program};

/// What wrk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests on connections that stay.
    KeepAlive,
    /// A new connection for every request.
    NewConnections,
}

/// What one run of wrk came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

/// wrk itself prints no percentile above 99.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local at = function(p) return latency:percentile(p) end
  io.write(string.format("Percentiles/us: %.1f %.1f %.1f\n", at(50), at(99), at(99.9)))
end
"#;

impl Load {
    pub const ALL: [Self; 2] = [Self::KeepAlive, Self::NewConnections];

    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive requests",
            Self::NewConnections => "new connections",
        }
    }

    /// What distinguishes the command lines.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::KeepAlive => &[],
            Self::NewConnections => &["-H", "Connection: close"],
        }
    }
}

/// Puts `load` on `url` from `namespace`; panics when a request goes wrong. `dir` is where a script may be left.
pub fn run(namespace: &Namespace, dir: &Path, url: &str, load: Load, seconds: u32) -> Rate {
    let script = dir.join("wrk.lua");
    fs::write(&script, SCRIPT).unwrap_or_else(|e| panic!("write {}: {e}", script.display()));
    let mut command = namespace.command("wrk");
    command.args(["-t1", "-c32", "--timeout", "2s", &format!("-d{seconds}s"), "-s"]).arg(script);
    let report = program::stdout_of(command.args(load.options()).arg(url));
    for trouble in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(trouble), "wrk reports errors:\n{report}");
    }
    parse(&report).unwrap_or_else(|| panic!("wrk reports no rate:\n{report}"))
}

fn parse(report: &str) -> Option<Rate> {
    let field = |name| report.lines().find_map(|line| line.trim().strip_prefix(name));
    let per_second = field("Requests/sec:")?.trim().parse().ok()?;
    let percentiles: Vec<f64> =
        field("Percentiles/us:")?.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    let [p50_us, p99_us, p999_us] = percentiles.try_into().ok()?;
    Some(Rate { per_second, p50_us, p99_us, p999_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_percentiles_are_found_in_the_report() {
        let report = "Running 1s test\n  Thread Stats\n  10 requests in 1.00s\nRequests/sec:  23456.78\n\
                      Transfer/sec: 1MB\nPercentiles/us: 174.0 412.0 903.5\n";
        let want = Rate { per_second: 23456.78, p50_us: 174.0, p99_us: 412.0, p999_us: 903.5 };
        assert_eq!(parse(report), Some(want));
        assert_eq!(parse("unable to connect"), None);
        assert_eq!(parse("Requests/sec: 5\n"), None);
    }
}
