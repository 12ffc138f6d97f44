//! Contestants, rounds and what comes out of them.

use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::web::{self, PAGE};
use netpath_tests::{Container, Plane, World};

use crate::spread::Spread;
use crate::wrk::{self, Load};

/// Where the client finds the web server of any contestant.
pub const URL: &str = "http://198.18.0.1:8080/";

/// How long a web server may take to start.
const START: Duration = Duration::from_secs(5);

/// A data plane with a web server behind its published port 8080, in namespaces of its own: a server port that was
/// reached through another data plane before would meet its own TIME_WAIT entries.
pub struct Contestant {
    pub name: &'static str,
    pub world: World,
    pub web: Container,
}

/// The rates of several contestants under one load; the first is the one to compare with.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub load: Load,
    pub names: Vec<&'static str>,
    /// Requests per second: a row per round, a column per contestant.
    pub rounds: Vec<Vec<f64>>,
}

impl Contestant {
    pub fn new(plane: Plane) -> Self {
        let world = World::new(plane);
        let command = web::nginx(&world.dir().join("web"), 80);
        let web = if plane.is_netpath() {
            world.run("web", &["8080:80"], &command)
        } else {
            let web = world.container("web", &["8080:80"]);
            world.spawn(web.inside.command(&command[0]).args(&command[1..]));
            web
        };
        let name = match plane {
            Plane::Iptables { .. } => "iptables",
            Plane::Netpath { shortcuts: true } => "netpath",
            Plane::Netpath { shortcuts: false } => "netpath --shortcuts=off",
        };
        let contestant = Self { name, world, web };
        contestant.wait_for_page();
        contestant
    }

    /// Requests per second under `load`.
    pub fn rate(&self, load: Load, seconds: u32) -> f64 {
        wrk::run(&self.world.client, &self.world.dir(), URL, load, seconds).per_second
    }

    fn wait_for_page(&self) {
        wait_for_page(&self.world);
    }
}

/// Waits until the page is served at port 8080 of the host; returns how long that took.
pub fn wait_for_page(world: &World) -> Duration {
    let start = Instant::now();
    loop {
        match web::fetch(&world.client, URL) {
            Ok(page) => {
                assert_eq!(page, PAGE);
                return start.elapsed();
            }
            Err(error) => assert!(start.elapsed() < START, "no page at {URL} after {START:?}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Puts `load` on each contestant in turn, `rounds` times, after a round that does not count.
pub fn compare(contestants: &[&Contestant], load: Load, rounds: u32, seconds: u32) -> Comparison {
    for contestant in contestants {
        contestant.rate(load, 1);
    }
    let round = |_| contestants.iter().map(|contestant| contestant.rate(load, seconds)).collect();
    Comparison { load, names: contestants.iter().map(|c| c.name).collect(), rounds: (0..rounds).map(round).collect() }
}

impl Comparison {
    /// The rates of contestant `index`.
    pub fn rates(&self, index: usize) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round[index]).collect())
    }

    /// What contestant `index` reached of what the first did, round by round.
    pub fn ratios(&self, index: usize) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round[index] / round[0]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let rounds = vec![vec![10.0, 20.0], vec![20.0, 30.0], vec![5.0, 5.0]];
        let comparison = Comparison { load: Load::KeepAlive, names: vec!["a", "b"], rounds };
        assert_eq!(comparison.ratios(1), Spread { median: 1.5, min: 1.0, max: 2.0 });
        assert_eq!(comparison.ratios(0), Spread { median: 1.0, min: 1.0, max: 1.0 });
        assert_eq!(comparison.rates(1), Spread { median: 20.0, min: 5.0, max: 30.0 });
    }
}
