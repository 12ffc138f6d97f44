//! `netpath docker`: what stands between this host's Docker and netpath, and the way from one to the other.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

use super::format::table;
use crate::cli_docker::{DockerCommand, DockerMigrateArgs};
use crate::client::Client;
use crate::docker::migrate::{Migration, Outcome};
use crate::docker::plan::{Plan, Step};

pub(super) async fn run(client: &Client, command: DockerCommand) -> Result<ExitCode> {
    ensure!(
        geteuid().is_root(),
        "`netpath docker` needs root: it reads Docker's rules, and `migrate` changes dockerd's configuration"
    );
    match command {
        DockerCommand::Plan(args) => {
            let plan = Plan::read(&args.engine.docker, args.engine.config.as_deref()).await?;
            if args.json {
                super::print_json(&plan)?;
            } else {
                super::print(&render(&plan))?;
            }
            Ok(if plan.obstacles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(super::PROBLEM) })
        }
        DockerCommand::Migrate(args) => migrate(client, args).await,
    }
}

async fn migrate(client: &Client, args: DockerMigrateArgs) -> Result<ExitCode> {
    let migration = Migration {
        socket: args.engine.docker,
        config: args.engine.config,
        command: args.command,
        wait: Duration::from_secs(args.wait),
    };
    // A reader that went away does not end what is half done.
    let say = |line: &str| eprintln!("{line}");
    if args.back {
        migration.back(&say).await?;
        return Ok(ExitCode::SUCCESS);
    }
    match migration.forward(client, &say).await? {
        Outcome::Done => Ok(ExitCode::SUCCESS),
        Outcome::Refused(obstacles) => {
            eprint!("nothing was changed; first:\n{}", listed(&obstacles));
            Ok(ExitCode::from(super::PROBLEM))
        }
    }
}

fn render(plan: &Plan) -> String {
    let engine = &plan.engine;
    let live = if engine.live_restore { "on" } else { "off" };
    let mut parts = vec![format!(
        "Docker Engine {} (API {}) at {}, process {}, configured by {}; {} containers running, live-restore {live}\n",
        engine.version,
        engine.api,
        engine.socket.display(),
        engine.pid,
        engine.config.display(),
        engine.running,
    )];
    let settings = plan.settings.iter().map(|setting| {
        [setting.name.clone(), setting.now.to_string(), setting.wanted.to_string(), setting.set_by.clone()]
    });
    parts.push(table(["OPTION OF DOCKERD", "NOW", "WANTED", "SET BY"], settings));
    if !plan.rules.is_empty() {
        let rules = plan.rules.iter().map(|rules| {
            let table = format!("{}{}", rules.table, if rules.is_legacy { " (legacy)" } else { "" });
            let what = if rules.is_kept { "yours: stay, and see nothing of what netpath forwards" } else { "removed" };
            [rules.family.clone(), table, rules.chain.clone(), rules.rules.to_string(), what.to_owned()]
        });
        parts.push(table(["FAMILY", "TABLE", "CHAIN", "RULES", "WHAT BECOMES OF THEM"], rules));
    }
    if !plan.ports.is_empty() {
        let ports = plan.ports.iter();
        let ports = ports.map(|p| [p.container.clone(), p.host.clone(), p.leads_to.clone(), p.open_to.clone()]);
        parts.push(table(["CONTAINER", "PUBLISHED AT", "LEADS TO", "OPEN TO"], ports));
    }
    if !plan.left_alone.is_empty() {
        let left = plan.left_alone.iter().map(|(name, why)| [name.clone(), why.clone()]);
        parts.push(table(["LEFT TO DOCKER", "WHY"], left));
    }
    if !plan.obstacles.is_empty() {
        parts.push(format!("In the way:\n{}", listed(&plan.obstacles)));
    }
    let steps: Vec<String> = plan.steps.iter().map(|step| explain(*step, plan)).collect();
    parts.push(match steps.is_empty() {
        true => "Nothing to change: `netpath agent --docker` serves this Docker as it is.\n".to_owned(),
        false => format!("`netpath docker migrate` does, while `netpath agent --docker` runs:\n{}", numbered(&steps)),
    });
    parts.join("\n")
}

fn explain(step: Step, plan: &Plan) -> String {
    match step {
        Step::KeepRunning => {
            "let containers go on while dockerd is restarted: live-restore, by reload, for that long".to_owned()
        }
        Step::Configure => {
            let names = plan.settings.iter().filter(|setting| setting.now != setting.wanted);
            let names: Vec<String> = names.map(|setting| format!("\"{}\": {}", setting.name, setting.wanted)).collect();
            format!("write {} into {}, a copy beside it", names.join(", "), plan.engine.config.display())
        }
        Step::Restart => match &plan.engine.unit {
            Some(unit) => format!("have dockerd restarted: by you, or `-- systemctl restart {unit}`"),
            None => "have dockerd restarted: by you, or by the command behind `--`".to_owned(),
        },
        Step::RemoveRules => "remove Docker's rules; connections to published ports go on".to_owned(),
    }
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

fn numbered(lines: &[String]) -> String {
    lines.iter().enumerate().map(|(number, line)| format!("{}. {line}\n", number + 1)).collect()
}
