//! `netpath ps`: the containers as a table.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::format::{age, bindings, table};
use crate::api::{Endpoint, Netns};
use crate::client::Client;

pub(super) async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let endpoints: Vec<Endpoint> = client.get("/v1/endpoints").await?;
    if json {
        super::print_json(&endpoints)?;
    } else {
        super::print(&render(&endpoints, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(endpoints: &[Endpoint], now: SystemTime) -> String {
    let header = ["NAME", "ADDRESS", "INTERFACE", "CREATED", "COMMAND", "PORTS"];
    let rows = endpoints.iter().map(|endpoint| {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(endpoint.created);
        [
            endpoint.name.clone(),
            endpoint.address.to_string(),
            endpoint.ifname.clone(),
            // A state rebuilt from the kernel does not know.
            if endpoint.created == 0 {
                "unknown".to_owned()
            } else {
                format!("{} ago", age(now.duration_since(created).unwrap_or_default()))
            },
            command(endpoint),
            bindings(&endpoint.ports),
        ]
    });
    table(header, rows)
}

/// The command, shortened as `docker ps` does, or where the namespace came from.
fn command(endpoint: &Endpoint) -> String {
    const LONGEST: usize = 20;
    if endpoint.command.is_empty() {
        return match &endpoint.netns {
            Netns::Pid(pid) => format!("(pid {pid})"),
            Netns::Path(path) => format!("({})", path.display()),
        };
    }
    let line = endpoint.command.join(" ");
    if line.chars().count() <= LONGEST {
        return format!("\"{line}\"");
    }
    format!("\"{}…\"", line.chars().take(LONGEST - 1).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::endpoint;
    use super::*;

    #[test]
    fn containers_are_listed_as_docker_lists_them() {
        let mut attached = endpoint("db", &[]);
        attached.netns = Netns::Path("/run/netns/db".into());
        let mut run = endpoint("web", &[("0.0.0.0", 8080, 80), ("0.0.0.0", 8443, 443)]);
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
