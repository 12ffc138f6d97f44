//! What is measured: series of work, the contestants of each, and the conditions it is done under.

use crate::iperf::Direction;
use crate::kind::Kind;
use crate::work::{Floor, Way, Work};
use crate::wrk::Load;

/// How much there is to do.
#[derive(Clone, Debug)]
pub struct Effort {
    pub quick: bool,
    pub rounds: u32,
    pub seconds: u32,
    /// Only what has this in its name.
    pub only: Option<String>,
}

/// Work that contestants do in turn, on stages that stand as long as the series lasts.
#[derive(Clone, Debug)]
pub struct Series {
    pub of: Of,
    /// In ascending order.
    pub steps: Vec<u64>,
    pub entrants: Vec<Entrant>,
    pub works: Vec<Work>,
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Nothing,
    /// Published ports.
    Ports,
    /// Masqueraded flows.
    Flows,
}

/// A contestant in a series.
#[derive(Clone, Debug)]
pub struct Entrant {
    pub name: &'static str,
    pub kind: Kind,
    /// How it publishes the ports of a step.
    pub ports: Ports,
    /// Higher steps are left out.
    pub up_to: u64,
    /// More options for netpath's agent.
    pub agent: Vec<String>,
}

/// How a contestant publishes more and more ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    OneByOne,
    AsRange,
    /// Not at all: it stays as it is at the first step, for the others to be compared with at each one. Between steps
    /// the machine changes.
    None,
}

/// With one rule for each port every new connection walks through all of them, and so does every change.
const MOST_RULES: u64 = 5_000;

/// Docker Engine starts two processes of its user-land proxy for each port, and writes its rules one by one.
const MOST_BY_ENGINE: u64 = 1_000;

/// Kernels allow some 262,144 tracked connections for the whole machine by default.
const MOST_TRACKED: u64 = 100_000;

impl Of {
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Ports => Some("ports"),
            Self::Flows => Some("flows"),
        }
    }
}

impl Entrant {
    fn new(kind: Kind) -> Self {
        Self { name: kind.name(), kind, ports: Ports::OneByOne, up_to: u64::MAX, agent: Vec::new() }
    }
}

impl Series {
    /// Runs of one round, for the progress bar.
    pub fn runs(&self) -> u64 {
        let of_step = |step: &u64| {
            let entrants = self.entrants.iter().filter(|entrant| *step <= entrant.up_to);
            entrants
                .map(|entrant| self.works.iter().filter(|work| work.takes(entrant.kind)).count() as u64)
                .sum::<u64>()
        };
        self.steps.iter().map(of_step).sum()
    }
}

/// All series that `effort` asks for.
pub fn series(effort: &Effort) -> Vec<Series> {
    let all = [main(), ports(effort.quick), flows(effort.quick)];
    let wanted = |work: &Work, of: Of| {
        let name = format!("{}{}", work.name(), of.name().map(|of| format!(",{of}")).unwrap_or_default());
        effort.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    };
    let filtered = all.into_iter().map(|mut series| {
        series.works.retain(|work| wanted(work, series.of));
        series.entrants.retain(|entrant| series.works.iter().any(|work| work.takes(entrant.kind)));
        series
    });
    filtered.filter(|series| !series.works.is_empty()).collect()
}

fn main() -> Series {
    let ways = [Way::Published, Way::Masquerade, Way::Containers, Way::HostLoopback, Way::Hairpin];
    let loads = [Load::NewConnections, Load::KeepAlive];
    let http = ways.into_iter().flat_map(|way| loads.map(|load| Work::Http(way, load)));
    let bulk = [Direction::In, Direction::Out].into_iter().flat_map(|d| [1, 8].map(|streams| Work::Bulk(d, streams)));
    let floors = [Floor::MakeOnly, Floor::RedirectOnly, Floor::TcDrop, Floor::XdpDrop].map(Work::Floor);
    let packets = [Work::Datagrams, Work::Udp].into_iter().chain(floors).chain([Work::Flood]);
    Series {
        of: Of::Nothing,
        steps: vec![0],
        entrants: Kind::ALL.map(Entrant::new).to_vec(),
        works: http.chain(bulk).chain(packets).collect(),
    }
}

fn published() -> Vec<Work> {
    [Load::NewConnections, Load::KeepAlive].map(|load| Work::Http(Way::Published, load)).to_vec()
}

fn ports(quick: bool) -> Series {
    let rules = |kind| Entrant { up_to: MOST_RULES, ..Entrant::new(kind) };
    // A single port of the wildcard address is an entry for each address of the host.
    let agent: Vec<String> = ["--max-ports", "262144"].map(str::to_owned).to_vec();
    Series {
        of: Of::Ports,
        steps: if quick { vec![1, 1_000, 60_000] } else { vec![1, 1_000, 5_000, 10_000, 60_000] },
        entrants: vec![
            rules(Kind::IptablesLegacy),
            rules(Kind::IptablesNft),
            Entrant::new(Kind::Nftables),
            Entrant { up_to: MOST_BY_ENGINE, ..Entrant::new(Kind::Docker) },
            Entrant { up_to: MOST_BY_ENGINE, ..Entrant::new(Kind::DockerNoProxy) },
            Entrant { agent: agent.clone(), ..Entrant::new(Kind::Netpath) },
            Entrant {
                name: "netpath-range",
                ports: Ports::AsRange,
                agent: agent.clone(),
                ..Entrant::new(Kind::Netpath)
            },
            Entrant { name: "netpath-1", ports: Ports::None, agent, ..Entrant::new(Kind::Netpath) },
        ],
        works: published(),
    }
}

fn flows(quick: bool) -> Series {
    let most = if quick { 100_000 } else { 1_000_000 };
    let agent = vec!["--max-flows".to_owned(), (2 * most).to_string()];
    Series {
        of: Of::Flows,
        steps: if quick { vec![1_000, most] } else { vec![1_000, 100_000, most] },
        entrants: vec![
            Entrant { up_to: MOST_TRACKED, ..Entrant::new(Kind::IptablesNft) },
            Entrant { agent, ..Entrant::new(Kind::Netpath) },
        ],
        works: published(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effort(only: Option<&str>) -> Effort {
        Effort { quick: true, rounds: 1, seconds: 1, only: only.map(str::to_owned) }
    }

    #[test]
    fn one_kind_of_work_can_be_picked_with_those_who_take_it() {
        let hairpin = series(&effort(Some("hairpin")));
        assert_eq!((hairpin.len(), hairpin[0].works.len()), (1, 2));
        assert!(hairpin[0].entrants.iter().all(|entrant| entrant.kind != Kind::Host));
        let ports = series(&effort(Some("keep-alive,ports")));
        assert_eq!((ports.len(), ports[0].of, ports[0].works.len()), (1, Of::Ports, 1));
        assert!(series(&effort(Some("nothing of this name"))).is_empty());
    }

    #[test]
    fn everything_is_compared_with_the_reference_where_it_can_be() {
        for series in series(&effort(None)) {
            for work in series.works.iter().filter(|work| !matches!(work, Work::Floor(_))) {
                assert!(work.takes(Kind::REFERENCE), "{}", work.name());
            }
            assert!(series.entrants.iter().any(|entrant| entrant.kind == Kind::REFERENCE));
        }
    }
}
