//! Aims about starting and ending containers, as `aims.rs` has those about packets.

use crate::aims::{Row, ports_text, row, times_at_least};
use crate::record::{Item, Run, grouped};
use crate::{cni, docker_memory, docker_run};

/// The most that ADD and DEL may take.
const CNI_MS: f64 = 20.0;
/// The most memory of the agent beside Docker's containers.
const MEMORY_MIB: f64 = 20.0;

/// All of them.
pub(crate) fn rows(run: &Run) -> Vec<Row> {
    [cni(run), docker(run), memory(run)].concat()
}

fn cni(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, text) in [("cni-add", "CNI ADD"), ("cni-del", "CNI DEL")] {
        let item = run.item(name);
        let spread = item.and_then(|item| item.outcome(cni::NETPATH)?.spread());
        let figures = spread.map(|spread| (format!("{spread:.1} ms"), spread.median < CNI_MS));
        let grace = || "the kernel waits for a grace period of RCU (8 ms at 250 Hz) when a program is attached to an interface, and when it goes";
        rows.push(row(format!("{text}: below {CNI_MS} ms"), figures, || grace().to_owned()));
        let ratio = times_at_least(item, cni::NETPATH, cni::DEBIANS, 1.0);
        rows.push(row(format!("{text}: not slower than Debian's {}", cni::DEBIANS), ratio, String::new));
    }
    rows
}

fn docker(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, text) in [("docker-run", "docker run, first answer"), ("docker-rm", "docker rm, port free")] {
        for count in docker_run::COUNTS.map(u64::from) {
            let items = run.series(name, "ports");
            let item = items.into_iter().find(|item| item.condition.as_ref().is_some_and(|of| of.count == count));
            let ratio = times_at_least(item, docker_run::WITH_NETPATH, docker_run::ALONE, 1.0);
            let aim = format!("{text}, {} published: not slower than Docker alone", ports_text(count));
            rows.push(row(aim, ratio, || item.map_or(String::new(), commands)));
        }
    }
    rows
}

/// What Docker's own command takes.
fn commands(item: &Item) -> String {
    let of = |name: &str| Some(format!("{name} {:.0} ms", item.outcome(name)?.median_of("command_ms")?));
    let both: Vec<String> = [docker_run::WITH_NETPATH, docker_run::ALONE].into_iter().filter_map(of).collect();
    format!("the command itself takes {}", both.join(", "))
}

fn memory(run: &Run) -> Vec<Row> {
    let item = run.series("docker-memory", "containers").into_iter().next();
    let outcome = item.and_then(|item| item.outcome(docker_run::WITH_NETPATH));
    let spread = outcome.and_then(|outcome| outcome.spread());
    let figures = spread.map(|spread| (format!("{:.1} MiB", spread.median), spread.median < MEMORY_MIB));
    let aim = format!(
        "agent's memory with {} containers of Docker's: below {MEMORY_MIB} MiB",
        grouped(docker_memory::CONTAINERS.into())
    );
    vec![row(aim, figures, || {
        let before = outcome.and_then(|outcome| outcome.median_of("before_mib"));
        before.map_or(String::new(), |mib| format!("without any it is {mib:.1} MiB"))
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{item, run};
    use crate::record::{Condition, Sample};

    #[test]
    fn an_aim_in_milliseconds_is_a_most() {
        let add = item("cni-add", true, &[(cni::NETPATH, &[12.0, 14.0, 13.0]), (cni::DEBIANS, &[50.0, 60.0, 52.0])]);
        let del = item("cni-del", true, &[(cni::NETPATH, &[21.0])]);
        let rows = rows(&run(vec![add, del]));
        assert_eq!((rows[0].met, rows[0].measured.as_str()), (Some(true), "13.0 (12.0 to 14.0) ms"));
        assert_eq!(rows[1].met, Some(true));
        assert!(rows[2].met == Some(false) && rows[2].bound.contains("grace period"), "{:?}", rows[2]);
        assert_eq!(rows[3].met, None);
    }

    #[test]
    fn what_bounds_a_start_is_the_command() {
        let mut item = item("docker-run", true, &[(docker_run::WITH_NETPATH, &[300.0]), (docker_run::ALONE, &[200.0])]);
        item.condition = Some(Condition { of: "ports".to_owned(), count: 100 });
        item.results[0].samples = vec![Sample::of(300.0).with("command_ms", 280.0)];
        let rows = rows(&run(vec![item]));
        let row = rows.iter().find(|row| row.aim.starts_with("docker run, first answer, 100 ports")).unwrap();
        assert_eq!((row.met, row.bound.as_str()), (Some(false), "the command itself takes docker+netpath 280 ms"));
    }
}
