//! What the packets of a run were, so that nobody has to believe that they were worth sending.

use std::collections::BTreeMap;
use std::fmt;

use crate::difference::Difference;
use netpath_model::{Outcome, Place, Verdict};
use netpath_tests::Family;

/// Counts of one run.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub packets: u64,
    /// How many of them were IPv6.
    packets6: u64,
    pub control: u64,
    /// Steps whose frames had not all come when the packet had been sent.
    pub late: u64,
    agreed: u64,
    differences: BTreeMap<Difference, u64>,
    verdicts: BTreeMap<(bool, Verdict), u64>,
}

impl Statistics {
    pub fn note(&mut self, family: Family, from: Place, outcome: &Outcome) {
        self.packets += 1;
        self.packets6 += family.pick(0, 1);
        *self.verdicts.entry((from == Place::Outside, outcome.verdict)).or_default() += 1;
    }

    /// Netfilter did what the model says, or not.
    pub fn note_difference(&mut self, difference: Option<Difference>) {
        match difference {
            None => self.agreed += 1,
            Some(difference) => *self.differences.entry(difference).or_default() += 1,
        }
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, packets6, control, late, .. } = self;
        writeln!(f, "{packets} packets, {packets6} of them IPv6, {control} other steps, {late} waited for")?;
        for ((is_outside, verdict), count) in &self.verdicts {
            let from = if *is_outside { "outside" } else { "a container" };
            let verdict = format!("{verdict:?}");
            writeln!(f, "  {count:>9} {:>5.1} % from {from:<12} {verdict}", *count as f64 * 100.0 / *packets as f64)?;
        }
        if self.agreed > 0 {
            writeln!(f, "netfilter does the same with {} of them, and not with", self.agreed)?;
        }
        for (difference, count) in &self.differences {
            writeln!(f, "  {count:>9} {:>5.1} % {difference:?}", *count as f64 * 100.0 / *packets as f64)?;
        }
        Ok(())
    }
}
