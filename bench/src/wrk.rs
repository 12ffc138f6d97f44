//! Request rates by wrk: one thread, 32 connections.

use netpath_tests::{Namespace, program};

/// What wrk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests on connections that stay.
    KeepAlive,
    /// A new connection for every request.
    NewConnections,
}

impl Load {
    pub const ALL: [Self; 2] = [Self::KeepAlive, Self::NewConnections];

    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive requests",
            Self::NewConnections => "new connections",
        }
    }
}

/// Requests per second that `url` answers to a client in `namespace`; panics when a request goes wrong.
pub fn rate(namespace: &Namespace, url: &str, load: Load, seconds: u32) -> f64 {
    let mut command = namespace.command("wrk");
    command.args(["-t1", "-c32", "--timeout", "2s", &format!("-d{seconds}s")]);
    if load == Load::NewConnections {
        command.args(["-H", "Connection: close"]);
    }
    let report = program::stdout_of(command.arg(url));
    for trouble in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(trouble), "wrk reports errors:\n{report}");
    }
    parse(&report).unwrap_or_else(|| panic!("wrk reports no rate:\n{report}"))
}

fn parse(report: &str) -> Option<f64> {
    report.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_the_report() {
        let report =
            "Running 1s test\n  Thread Stats\n  10 requests in 1.00s\nRequests/sec:  23456.78\nTransfer/sec: 1MB\n";
        assert_eq!(parse(report), Some(23456.78));
        assert_eq!(parse("unable to connect"), None);
    }
}
