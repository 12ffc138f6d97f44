//! What a run is kept as: every sample, and what machine, kernel and commands it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::spread::Spread;

/// A run, as `run.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// YYYY-MM-DD.
    pub date: String,
    pub machine: Machine,
    pub settings: Settings,
    pub contestants: Vec<Contestant>,
    pub items: Vec<Item>,
    pub programs: Vec<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub quick: bool,
    pub rounds: u32,
    pub seconds: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contestant {
    pub name: String,
    pub about: String,
    /// Why it could not take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// One kind of work, under one condition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    pub about: String,
    pub command: String,
    pub unit: String,
    pub lower_is_better: bool,
    /// What is there besides, such as 1,000 published ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    pub results: Vec<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `ports`, `flows` or `containers`.
    pub of: String,
    pub count: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub contestant: String,
    /// One for each round.
    pub samples: Vec<Sample>,
    /// Why there are fewer samples than rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What one round came to, and what else was seen with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub value: f64,
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// An eBPF program on one kind of packet; see `programs.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// Instructions that the verifier walked through.
    pub instructions: u32,
    /// Bytes of stack on the deepest way through it.
    pub stack: u32,
    pub packets: Vec<Packet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packet {
    pub name: String,
    pub ns: f64,
    /// The same, as a multiple of what the reference program took in the same run.
    pub relative: f64,
}

impl Sample {
    pub fn of(value: f64) -> Self {
        Self { value, more: BTreeMap::new() }
    }

    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }
}

impl Outcome {
    /// None before the first sample.
    pub fn spread(&self) -> Option<Spread> {
        let values: Vec<f64> = self.samples.iter().map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }

    /// The median of something that was seen with the value.
    pub fn median_of(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.samples.iter().filter_map(|sample| sample.more.get(name).copied()).collect();
        (!values.is_empty()).then(|| Spread::of(values).median)
    }
}

impl Item {
    pub fn outcome(&self, contestant: &str) -> Option<&Outcome> {
        self.results.iter().find(|outcome| outcome.contestant == contestant)
    }

    /// How much better `contestant` was than `reference`, round by round: 2 is twice the rate, or half the time.
    pub fn ratio(&self, contestant: &str, reference: &str) -> Option<Spread> {
        let (own, other) = (self.outcome(contestant)?, self.outcome(reference)?);
        let pairs = own.samples.iter().zip(&other.samples).filter(|(own, other)| own.value > 0.0 && other.value > 0.0);
        let better = |own: f64, other: f64| if self.lower_is_better { other / own } else { own / other };
        let ratios: Vec<f64> = pairs.map(|(own, other)| better(own.value, other.value)).collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    /// The name with the condition.
    pub fn title(&self) -> String {
        match &self.condition {
            Some(Condition { of, count }) => format!("{}, {} {of}", self.name, grouped(*count)),
            None => self.name.clone(),
        }
    }
}

impl Run {
    /// Takes over the items of `part` that this run has not.
    pub fn complete(&mut self, part: Self) {
        let is_known = |item: &Item| self.items.iter().any(|known| known.name == item.name);
        let new: Vec<Item> = part.items.into_iter().filter(|item| !is_known(item)).collect();
        self.items.extend(new);
    }

    /// The item called `name` without a condition.
    pub fn item(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.name == name && item.condition.is_none())
    }

    /// The items called `name` under conditions of one sort, in ascending order.
    pub fn series(&self, name: &str, of: &str) -> Vec<&Item> {
        let wanted = |item: &&Item| item.name == name && item.condition.as_ref().is_some_and(|c| c.of == of);
        let mut items: Vec<&Item> = self.items.iter().filter(wanted).collect();
        items.sort_by_key(|item| item.condition.as_ref().map(|condition| condition.count));
        items
    }
}

/// A number with commas: 60,000.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An item with samples of two contestants.
    pub(crate) fn item(name: &str, lower_is_better: bool, results: &[(&str, &[f64])]) -> Item {
        let outcome = |(contestant, values): &(&str, &[f64])| Outcome {
            contestant: (*contestant).to_owned(),
            samples: values.iter().map(|value| Sample::of(*value)).collect(),
            failed: None,
        };
        Item {
            name: name.to_owned(),
            about: String::new(),
            command: String::new(),
            unit: "1/s".to_owned(),
            lower_is_better,
            condition: None,
            results: results.iter().map(outcome).collect(),
        }
    }

    /// A run of some machine.
    pub(crate) fn run(items: Vec<Item>) -> Run {
        let machine = Machine {
            name: "vm".to_owned(),
            cpu: "epyc".to_owned(),
            cpus: 2,
            memory_mib: 0,
            kernel: "6.18".to_owned(),
            commit: String::new(),
            tools: Vec::new(),
        };
        let settings = Settings { quick: false, rounds: 3, seconds: 2 };
        Run { date: String::new(), machine, settings, contestants: Vec::new(), items, programs: Vec::new() }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let rates = item("x", false, &[("a", &[10.0, 20.0, 5.0]), ("b", &[20.0, 30.0, 5.0])]);
        assert_eq!(rates.ratio("b", "a"), Some(Spread { median: 1.5, min: 1.0, max: 2.0 }));
        assert_eq!(rates.ratio("a", "a").map(|spread| spread.median), Some(1.0));
        assert_eq!(rates.ratio("a", "c"), None);
        let times = item("y", true, &[("a", &[1000.0]), ("b", &[250.0])]);
        assert_eq!(times.ratio("b", "a").map(|spread| spread.median), Some(4.0));
    }

    #[test]
    fn samples_keep_what_was_seen_besides() {
        let sample = Sample::of(5.0).with("p99_us", 400.0);
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(text, r#"{"value":5.0,"p99_us":400.0}"#);
        assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([1, 999, 1000, 60_000, 1_000_000].map(grouped), ["1", "999", "1,000", "60,000", "1,000,000"]);
    }
}
