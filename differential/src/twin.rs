//! Both worlds and the model, step by step.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use netpath_model::{End, Nat, Outcome, Place};
use netpath_tests::Family;

use crate::compare::strict;
use crate::difference::Difference;
use crate::layout::{self, Layout};
use crate::netfilter::Judge;
use crate::seen::Seen;
use crate::side::{Side, own_ports};
use crate::statistics::Statistics;
use crate::step::{Sender, Step, Stimulus, Told};

/// Frames cross veths while they are sent. What is not there then may come a little later, when the kernel has put it
/// off.
const PATIENCE: Duration = Duration::from_millis(50);

/// Identifications that one case may use: an even number, as those of datagrams are even and those of strays are odd.
const IDS: u16 = 600;

/// Both worlds and the model.
pub struct Twin {
    pub netpath: Side,
    pub netfilter: Option<Side>,
    /// Of one family; both are there all the time.
    pub model: Nat,
    layout: Layout,
    pub statistics: Statistics,
    judge: Judge,
    last_difference: Option<Difference>,
    /// Added to identifications: the stack may still have fragments of the case before.
    first_id: u16,
}

impl Twin {
    pub fn new(icc: bool, has_netfilter: bool) -> Self {
        Self {
            netpath: Side::netpath(icc),
            netfilter: has_netfilter.then(|| Side::netfilter(icc)),
            model: Layout::of(Family::V4).model(icc),
            layout: Layout::of(Family::V4),
            statistics: Statistics::default(),
            judge: Judge::default(),
            last_difference: None,
            first_id: 0,
        }
    }

    /// Everything as it was before the first step, but for containers, of which others have the addresses. What follows
    /// is of `family`.
    pub fn forget(&mut self, family: Family) {
        let spare: Vec<_> = layout::SPARE_PORTS.into_iter().filter(|port| self.model.ports().contains(port)).collect();
        for port in spare {
            let _ = self.take(&Step::Unpublish(port));
        }
        self.layout = Layout::of(family);
        self.model = self.layout.model(self.model.config.icc);
        self.judge.forget();
        self.first_id = self.first_id.wrapping_add(IDS);
        self.sides().for_each(Side::forget);
    }

    /// One step. The error says what differs.
    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(stimulus) => {
                let mut stimulus = stimulus.clone();
                stimulus.packet.id = stimulus.packet.id.wrapping_add(self.first_id);
                return self.send(&stimulus);
            }
            Step::Advance(seconds) if !self.model.is_close_call(u64::from(*seconds)) => {
                let over = self.model.advance(u64::from(*seconds));
                self.sides().for_each(|side| side.advance(*seconds, &over));
            }
            Step::Publish(port) if !self.model.ports().contains(port) && !self.netpath.is_in_use(port) => {
                self.model.publish(*port);
                self.sides().for_each(|side| side.publish(port));
            }
            Step::Unpublish(port) if self.model.ports().contains(port) => {
                self.model.unpublish(port);
                self.sides().for_each(|side| side.unpublish(port));
                self.netfilter.iter_mut().for_each(Side::cut_all);
                self.judge.cut();
            }
            Step::Replace(number) => {
                self.model.add_container(*number, self.layout.container(*number));
                own_ports(*number).for_each(|port| self.model.publish(port));
                self.sides().for_each(|side| side.replace(*number));
                self.judge.cut();
            }
            Step::RestartAgent => self.netpath.restart_agent(),
            Step::Advance(_) | Step::Publish(_) | Step::Unpublish(_) => {}
        }
        self.statistics.control += 1;
        Ok(())
    }

    /// What netfilter did otherwise with the last packet.
    pub fn last_difference(&self) -> Option<Difference> {
        self.last_difference
    }

    fn sides(&mut self) -> impl Iterator<Item = &mut Side> {
        std::iter::once(&mut self.netpath).chain(&mut self.netfilter)
    }

    fn send(&mut self, stimulus: &Stimulus) -> Result<(), String> {
        let packet = &stimulus.packet;
        if packet.is_later_fragment() && matches!(&packet.dst, End::Name(name) if self.netpath.has_lost(name)) {
            // It goes where the first one's port leads, whoever has that by now: a name says nothing about it.
            return Ok(());
        }
        let outcome = match stimulus.from {
            Place::Outside => self.model.from_outside(&stimulus.packet),
            Place::Container(number) => {
                let has_own_mac = stimulus.sender == Sender::Itself;
                self.model.from_container(number, has_own_mac, &stimulus.packet)
            }
        };
        self.statistics.note(self.layout.family, stimulus.from, &outcome);
        self.netpath.send(stimulus);
        let (result, seen) = settled(&mut self.netpath, &mut self.statistics.late, |side, seen| {
            strict(side, &self.model, &outcome, seen)
        });
        let renamed = result.map_err(|what| told("netpath", &what, stimulus, &outcome, &seen))?;
        renamed.into_iter().for_each(|name| self.model.rename(name));
        let Some(netfilter) = &mut self.netfilter else { return Ok(()) };
        if matches!(stimulus.sender, Sender::Neighbour(_)) {
            // It would teach a plain bridge to send what is for the neighbour to this one.
            return Ok(());
        }
        netfilter.send(stimulus);
        let judge = &mut self.judge;
        let (model, late) = (&self.model, &mut self.statistics.late);
        let (result, seen) = settled(netfilter, late, |side, seen| judge.judge(side, model, stimulus, &outcome, seen));
        match result {
            Ok(difference) => {
                self.last_difference = difference;
                self.statistics.note_difference(difference);
            }
            Err(what) => return Err(told("netfilter", &what, stimulus, &outcome, &seen)),
        }
        Ok(())
    }
}

/// Collects what has come out until `judge` is content with it, or patience ends.
fn settled<T>(
    side: &mut Side,
    late: &mut u64,
    mut judge: impl FnMut(&mut Side, &[Seen]) -> Result<T, String>,
) -> (Result<T, String>, Vec<Seen>) {
    let mut seen = side.seen();
    let mut result = judge(side, &seen);
    let deadline = Instant::now() + PATIENCE;
    while result.is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
        let more = side.seen();
        if !more.is_empty() {
            seen.extend(more);
            result = judge(side, &seen);
            *late += u64::from(result.is_ok());
        }
    }
    (result, seen)
}

fn told(plane: &str, what: &str, stimulus: &Stimulus, outcome: &Outcome, seen: &[Seen]) -> String {
    let mut text = format!("{plane}: {what}\n  {stimulus}\n  the model: {:?}\n", outcome.verdict);
    for sent in &outcome.sent {
        let _ = writeln!(text, "    {:?} sees {}", sent.to, Told(&sent.packet));
    }
    let _ = writeln!(text, "  {plane}:");
    for seen in seen {
        let _ = writeln!(text, "    {:?} sees {:02x?}", seen.at, seen.packet);
    }
    text
}
