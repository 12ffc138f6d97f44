//! Carries a plan out: builds the stages of a series, lets the contestants take turns, keeps what goes wrong.

use netpath_tests::CLIENT;

use crate::attempt::{attempt, in_short};
use crate::kind::Kind;
use crate::plan::{Effort, Entrant, Of, Ports, Series};
use crate::progress::Progress;
use crate::record::{Condition, Item, Outcome, Sample, grouped};
use crate::stage::{EXTRA_PORTS, Stage};
use crate::traffic::{Datagram, Port, Receiving, Sink, Traffic, ifname, other_end, v4};
use crate::work::Work;

/// Does all work of `series`, in `effort.rounds` rounds. Whoever fails is left out from there on, with a line that says so.
pub fn run(series: &Series, effort: &Effort, traffic: &mut Traffic, progress: &Progress) -> Vec<Item> {
    let mut items = Vec::new();
    let mut stages: Vec<(&Entrant, Result<Stage, String>)> = Vec::new();
    for entrant in series.entrants.iter().filter(|entrant| entrant.kind.missing().is_none()) {
        progress.says(&format!("building: {}", entrant.name));
        let stage = attempt(|| Stage::new(entrant.kind, &entrant.agent));
        if let Err(error) = &stage {
            progress.line(&format!("{}: left out: {}", entrant.name, in_short(error)));
        }
        stages.push((entrant, stage));
    }
    let mut done = 0;
    for step in &series.steps {
        for (entrant, stage) in stages.iter_mut().filter(|(entrant, _)| *step <= entrant.up_to) {
            if series.of == Of::Ports && entrant.ports != Ports::None {
                progress.says(&format!("publishing {} ports: {}", grouped(*step), entrant.name));
                try_on(entrant, stage, progress, |stage| {
                    publish_up_to(stage, done, *step, entrant.ports == Ports::AsRange)
                });
            }
        }
        done = *step;
        for work in &series.works {
            let results = measure(series, *step, *work, &mut stages, effort, traffic, progress);
            add(&mut items, item(*work, condition(series.of, *step), effort), results);
        }
    }
    for (entrant, stage) in stages {
        // A world checks at its end what every test promises.
        if let Err(error) = attempt(|| drop(stage)) {
            progress.line(&format!("{}: at the end: {}", entrant.name, in_short(&error)));
        }
    }
    items
}

/// Contestants take turns, and the one who begins changes: what one leaves behind meets another each time.
fn measure(
    series: &Series,
    step: u64,
    work: Work,
    stages: &mut [(&Entrant, Result<Stage, String>)],
    effort: &Effort,
    traffic: &mut Traffic,
    progress: &Progress,
) -> Vec<Outcome> {
    let takes = |entrant: &Entrant| work.takes(entrant.kind) && step <= entrant.up_to;
    let mut turns: Vec<usize> = (0..stages.len()).filter(|index| takes(stages[*index].0)).collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); stages.len()];
    // A round that does not count warms caches; a quick run does without.
    let warm_ups = if effort.quick { 0 } else { 1 };
    for round in 0..warm_ups + effort.rounds {
        for index in turns.clone() {
            let (entrant, stage) = &mut stages[index];
            progress.says(&format!("{}: {}", work.name(), entrant.name));
            let seconds = if round < warm_ups { 1 } else { effort.seconds };
            let sample = try_on(entrant, stage, progress, |stage| {
                if series.of == Of::Flows {
                    fill_flows(stage, traffic, step);
                }
                work.run(stage, traffic, seconds)
            });
            samples[index].extend(sample.filter(|_| round >= warm_ups));
            if round >= warm_ups {
                progress.step();
            }
        }
        if !turns.is_empty() {
            turns.rotate_left(1);
        }
    }
    turns.sort_unstable();
    let outcome = |index: usize| {
        let (entrant, stage) = &stages[index];
        let failed = stage.as_ref().err().map(|error| in_short(error));
        Outcome { contestant: work.label(entrant.name), samples: std::mem::take(&mut samples[index]), failed }
    };
    turns.into_iter().map(outcome).collect()
}

/// Does `work` on a stage that stands; a failure takes the stage down.
fn try_on<T>(
    entrant: &Entrant,
    stage: &mut Result<Stage, String>,
    progress: &Progress,
    work: impl FnOnce(&Stage) -> T,
) -> Option<T> {
    match attempt(|| stage.as_ref().ok().map(work)) {
        Ok(value) => value,
        Err(error) => {
            progress.line(&format!("{}: left out from here on: {}", entrant.name, in_short(&error)));
            let _ = attempt(|| *stage = Err(error));
            None
        }
    }
}

fn item(work: Work, condition: Option<Condition>, effort: &Effort) -> Item {
    Item {
        name: work.name(),
        about: work.about(),
        command: work.command(effort.seconds),
        unit: work.unit().to_owned(),
        lower_is_better: work.lower_is_better(),
        condition,
        results: Vec::new(),
    }
}

fn condition(of: Of, count: u64) -> Option<Condition> {
    of.name().map(|of| Condition { of: of.to_owned(), count })
}

/// Puts `results` to the item that is there already, if there is one: several kinds of work may be one item.
fn add(items: &mut Vec<Item>, item: Item, results: Vec<Outcome>) {
    match items.iter_mut().find(|known| known.name == item.name && known.condition == item.condition) {
        Some(known) => known.results.extend(results),
        None => items.push(Item { results, ..item }),
    }
}

/// The service that is measured is one of the ports.
fn publish_up_to(stage: &Stage, done: u64, step: u64, as_range: bool) {
    let port = |count: u64| u16::try_from(count.saturating_sub(1)).unwrap_or(EXTRA_PORTS).min(EXTRA_PORTS);
    let (from, to) = (port(done), port(step));
    if to > from {
        stage.publish_extra(from, to, as_range);
    }
}

/// Source ports of flows: netpath gives each port of a container one port of the host's.
const SRC_PORTS: u32 = 16_384;

/// Makes `count` flows by as many datagrams of the second container to the client, which drops them.
fn fill_flows(stage: &Stage, traffic: &mut Traffic, count: u64) {
    let inside = Port { namespace: &stage.app, ifname: "eth0" };
    let veth = ifname(stage.host(), other_end(inside));
    let outside = Port { namespace: stage.client(), ifname: "eth0" };
    let receiver = Port { namespace: stage.host(), ifname: &veth };
    let _receiving = Receiving::new(receiver);
    let _sink = traffic.attach(outside, Sink::Drop);
    let before = traffic.arrived();
    let count = u32::try_from(count).expect("fewer flows than 2^32");
    let [address] = stage.app.addresses()[..] else { panic!("the second container has one address") };
    let src_ports = SRC_PORTS.min(count);
    let datagram = Datagram { src: (v4(address), 2048), dst: (v4(CLIENT), 20_000), src_ports };
    traffic.order(inside, gateway_mac(stage), datagram);
    traffic.send(inside.namespace, count);
    let arrived = traffic.arrived() - before;
    assert!(arrived * 100 >= u64::from(count) * 98, "{}: of {count} flows {arrived} came out", stage.kind.name());
}

/// The hardware address of the bridge.
fn gateway_mac(stage: &Stage) -> [u8; 6] {
    let bridges = stage.host().ip("-o link show type bridge");
    let name = bridges.split(": ").nth(1).unwrap_or_else(|| panic!("no bridge on the host"));
    stage.host().mac(name)
}

/// The contestants of a run, and a line for each that cannot take part.
pub fn contestants(progress: &Progress) -> Vec<crate::record::Contestant> {
    let note = |kind: Kind| {
        let missing = kind.missing();
        if let Some(why) = &missing {
            progress.line(&format!("{}: left out: {why}", kind.name()));
        }
        crate::record::Contestant { name: kind.name().to_owned(), about: kind.about().to_owned(), missing }
    };
    Kind::ALL.map(note).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Floor;

    #[test]
    fn the_floors_are_results_of_the_same_item() {
        let effort = Effort { quick: true, rounds: 1, seconds: 1, only: None };
        let outcome =
            |name: &str| Outcome { contestant: name.to_owned(), samples: vec![Sample::of(1.0)], failed: None };
        let mut items = Vec::new();
        add(&mut items, item(Work::Udp, None, &effort), vec![outcome("netpath")]);
        add(&mut items, item(Work::Floor(Floor::TcDrop), None, &effort), vec![outcome("tc-drop")]);
        assert_eq!((items.len(), items[0].results.len()), (1, 2));
    }
}
