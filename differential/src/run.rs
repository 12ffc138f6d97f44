//! Whole runs: cases that follow from a seed, each in worlds that remember nothing; and the shortest sequence of steps that
//! still shows a disagreement.

use std::fmt::Write as _;

use netpath_tests::Family;

use crate::generate::Generator;
use crate::layout::Layout;
use crate::rng::Rng;
use crate::statistics::Statistics;
use crate::step::Step;
use crate::twin::Twin;

/// Steps of one case.
const STEPS: u64 = 250;
/// How often a case is run again to find out what it does not need.
const ATTEMPTS: usize = 400;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub packets: u64,
    pub icc: bool,
    /// None: each case has one by chance.
    pub family: Option<Family>,
    pub has_netfilter: bool,
    /// Whether steps are left out that a disagreement does not need.
    pub shrinks: bool,
}

/// Something differs.
#[derive(Clone, Debug)]
pub struct Disagreement {
    pub seed: u64,
    pub case: u64,
    pub family: Family,
    pub what: String,
    pub steps: Vec<Step>,
}

impl Disagreement {
    /// Everything that is known about it.
    pub fn told(&self) -> String {
        let mut text = format!("seed {}, case {}:\n{}the steps:\n", self.seed, self.case, self.what);
        self.steps.iter().for_each(|step| _ = writeln!(text, "  {step}"));
        text
    }
}

/// Runs `plan`. `progress` is told how many packets have been sent after each case.
pub fn run(plan: Plan, progress: impl Fn(&Statistics)) -> Result<Statistics, (Box<Disagreement>, Statistics)> {
    let mut twin = Twin::new(plan.icc, plan.has_netfilter);
    run_in(&mut twin, plan, progress)
}

/// The same in worlds that are there.
pub fn run_in(
    twin: &mut Twin,
    plan: Plan,
    progress: impl Fn(&Statistics),
) -> Result<Statistics, (Box<Disagreement>, Statistics)> {
    let mut case = 0;
    while twin.statistics.packets < plan.packets {
        if let Err(disagreement) = run_case(twin, plan, case) {
            let statistics = twin.statistics.clone();
            let told = if plan.shrinks { shrink(twin, disagreement) } else { disagreement };
            return Err((Box::new(told), statistics));
        }
        case += 1;
        progress(&twin.statistics);
    }
    Ok(twin.statistics.clone())
}

/// Case `case` of `plan`.
fn run_case(twin: &mut Twin, plan: Plan, case: u64) -> Result<(), Disagreement> {
    let seed = plan.seed;
    let mut rng = Rng::new(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
    let (of_case, drawn) = (rng.word(), rng.pick(&Family::BOTH));
    let family = plan.family.unwrap_or(drawn);
    let mut generator = Generator::new(of_case, Layout::of(family));
    twin.forget(family);
    let mut steps = Vec::new();
    for number in 0.. {
        let step = if number < STEPS { Some(generator.step(&twin.model)) } else { generator.rest() };
        let Some(step) = step else { break };
        steps.push(step.clone());
        if let Err(what) = twin.take(&step) {
            return Err(Disagreement { seed, case, family, what, steps });
        }
    }
    Ok(())
}

/// Leaves out whatever the disagreement does not need.
fn shrink(twin: &mut Twin, mut disagreement: Disagreement) -> Disagreement {
    let mut size = disagreement.steps.len() / 2;
    let mut attempts = 0;
    while size > 0 {
        let mut at = 0;
        while at < disagreement.steps.len() && attempts < ATTEMPTS {
            attempts += 1;
            let mut fewer = disagreement.steps.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match replay(twin, disagreement.family, &fewer) {
                Some((what, taken)) => {
                    fewer.truncate(taken);
                    (disagreement.what, disagreement.steps) = (what, fewer);
                }
                None => at += size,
            }
        }
        size /= 2;
    }
    disagreement
}

/// Takes `steps` anew; what differs, and after how many steps.
fn replay(twin: &mut Twin, family: Family, steps: &[Step]) -> Option<(String, usize)> {
    twin.forget(family);
    steps.iter().enumerate().find_map(|(index, step)| twin.take(step).err().map(|what| (what, index + 1)))
}
