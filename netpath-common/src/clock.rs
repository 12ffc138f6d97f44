//! The clock of the flow tables.

/// Seconds that `monotonic_ns` (CLOCK_MONOTONIC, ns) stands for in the flow tables.
///
/// BPF divides slowly, so this multiplies: it runs fast by less than one part in ten million, the same
/// for eBPF and agent. Good for 34 years of uptime.
#[inline(always)]
pub const fn seconds(monotonic_ns: u64) -> u32 {
    // 2^50 / 10^9, rounded up.
    const SECONDS_PER_2_50_NS: u64 = 1_125_900;
    (((monotonic_ns >> 20) * SECONDS_PER_2_50_NS) >> 30) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_seconds() {
        assert_eq!(seconds(0), 0);
        assert_eq!(seconds(999_000_000), 0);
        for s in [1u64, 59, 7_440, 86_400, 31_536_000] {
            let got = u64::from(seconds(s * 1_000_000_000 + 2_000_000));
            assert!(got.abs_diff(s) <= 1 + s / 10_000_000, "{s} s became {got}");
        }
    }
}
