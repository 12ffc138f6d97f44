//! `netpath ps`: the containers as a table.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::format::{age, bindings, or_dash, table};
use crate::api::{Container, Netns};
use crate::client::Client;

pub(super) async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let containers: Vec<Container> = client.get("/v1/containers").await?;
    if json {
        super::print_json(&containers)?;
    } else {
        super::print(&render(&containers, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(containers: &[Container], now: SystemTime) -> String {
    let header = ["NAME", "ADDRESS", "INTERFACE", "CREATED", "COMMAND", "PORTS"];
    let rows = containers.iter().map(|container| {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(container.created);
        [
            container.name.clone(),
            or_dash(&addresses(container)),
            or_dash(&container.endpoints.iter().map(|e| e.ifname.clone()).collect::<Vec<_>>().join(", ")),
            // A state rebuilt from the kernel does not know.
            if container.created == 0 {
                "unknown".to_owned()
            } else {
                format!("{} ago", age(now.duration_since(created).unwrap_or_default()))
            },
            command(container),
            bindings(&container.ports),
        ]
    });
    table(header, rows)
}

fn addresses(container: &Container) -> String {
    let v4 = container.endpoints.iter().filter_map(|endpoint| endpoint.address).map(|addr| addr.to_string());
    let v6 = container.endpoints.iter().filter_map(|endpoint| endpoint.address6).map(|addr| addr.to_string());
    v4.chain(v6).collect::<Vec<_>>().join(", ")
}

/// The command, shortened as `docker ps` does, or where the namespace came from.
fn command(container: &Container) -> String {
    const LONGEST: usize = 20;
    if container.command.is_empty() {
        return match &container.netns {
            Netns::Pid(pid) => format!("(pid {pid})"),
            Netns::Path(path) => format!("({})", path.display()),
        };
    }
    let line = container.command.join(" ");
    if line.chars().count() <= LONGEST {
        return format!("\"{line}\"");
    }
    format!("\"{}…\"", line.chars().take(LONGEST - 1).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::container;
    use super::*;

    #[test]
    fn containers_are_listed_as_docker_lists_them() {
        let mut attached = container("db", &[]);
        attached.netns = Netns::Path("/run/netns/db".into());
        let mut run = container("web", &[("0.0.0.0", 8080, 80), ("0.0.0.0", 8443, 443)]);
        run.command = ["nginx", "-g", "daemon off; worker_processes 1;"].map(str::to_owned).to_vec();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(run.created + 90);
        assert_eq!(
            render(&[run, attached], now),
            "\
NAME  ADDRESS     INTERFACE    CREATED             COMMAND                 PORTS
web   172.17.0.2  veth0a1b2c3  About a minute ago  \"nginx -g daemon off…\"  0.0.0.0:8080->80/tcp, 0.0.0.0:8443->443/tcp
db    172.17.0.2  veth0a1b2c3  About a minute ago  (/run/netns/db)
"
        );
    }
}
