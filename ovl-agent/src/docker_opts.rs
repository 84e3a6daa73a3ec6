//! `ovl-agent docker-opts`: options for Docker's daemon from `subnet.env`, as flannel's `mk-docker-opts.sh` writes them
//! (FLANNEL.md 6.3).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use ipnet::{IpNet, Ipv4Net};

use crate::cli::DEFAULT_SUBNET_FILE;
use crate::family::Family;
use crate::netlink::{self, MainRoute};

/// Options of `docker-opts`: those of `mk-docker-opts.sh`.
#[derive(Clone, Debug, Args)]
pub struct DockerOptsArgs {
    /// The file that the agent wrote.
    #[arg(short = 'f', value_name = "FILE", default_value = DEFAULT_SUBNET_FILE)]
    pub subnet_file: PathBuf,
    /// The file to write.
    #[arg(short = 'd', value_name = "FILE", default_value = "/run/docker_opts.env")]
    pub output: PathBuf,
    /// Write every option as a variable of its own, such as DOCKER_OPT_MTU. Neither -i nor -c is both.
    #[arg(short = 'i')]
    pub individual: bool,
    /// Write all options as one variable.
    #[arg(short = 'c')]
    pub combined: bool,
    /// Name of that variable.
    #[arg(short = 'k', value_name = "NAME", default_value = "DOCKER_OPTS")]
    pub key: String,
    /// Leave --ip-masq out, for old versions of Docker.
    #[arg(short = 'm')]
    pub without_ip_masq: bool,
}

/// What `subnet.env` and the environment say, as a shell that reads the file sees it.
type Variables = BTreeMap<String, String>;

/// Writes the file, then looks whether the node's subnet still leads elsewhere.
///
/// # Errors
/// Also after the file was written: where a route sends the subnet's packets to another node.
pub async fn run(args: &DockerOptsArgs) -> Result<()> {
    let mut variables: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match std::fs::read_to_string(&args.subnet_file) {
        Ok(text) => variables.extend(assignments(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", args.subnet_file.display()));
        }
    }
    let text = render(args, &variables)?;
    let subnet = subnet(&variables)?;
    std::fs::write(&args.output, text).with_context(|| format!("cannot write {}", args.output.display()))?;
    let Some(subnet) = subnet else { return Ok(()) };
    refuse_stale_route(subnet, &netlink::main_routes(&netlink::connect()?, Family::V4).await?)
}

/// The assignments of a file that shells read.
fn assignments(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).trim_start().split_once('=')?;
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        is_name(name).then(|| (name.to_owned(), value.to_owned()))
    })
}

/// Whether a shell takes it for the name of a variable.
fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// The bytes of the file.
fn render(args: &DockerOptsArgs, variables: &Variables) -> Result<String> {
    const OPTION: &str = "DOCKER_OPT_";
    ensure!(is_name(&args.key), "-k {}: this is not a name for a variable", args.key);
    let get = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
    // Options that are in the environment already are passed on, in the order of their names.
    let mut options: Variables = variables
        .iter()
        .filter(|(name, _)| name.starts_with(OPTION))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut set = |name: &str, value: String| options.insert(format!("{OPTION}{name}"), value);
    if let Some(subnet) = get("FLANNEL_SUBNET") {
        set("BIP", format!("--bip={subnet}"));
    }
    if let Some(mtu) = get("FLANNEL_MTU") {
        set("MTU", format!("--mtu={mtu}"));
    }
    if let Some(flannel_does) = get("FLANNEL_IPMASQ").filter(|_| !args.without_ip_masq) {
        let docker_does = match flannel_does {
            "true" => false,
            "false" => true,
            other => {
                bail!("FLANNEL_IPMASQ is '{other}' in {}, not true or false", args.subnet_file.display())
            }
        };
        set("IPMASQ", format!("--ip-masq={docker_does}"));
    }
    let neither = !args.individual && !args.combined;
    let mut lines = Vec::new();
    if args.individual || neither {
        lines.extend(options.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")));
    }
    if args.combined || neither {
        // What the variable holds already stays in front, with the script's two spaces behind it.
        let before = get(&args.key).map(|value| format!("{value} ")).unwrap_or_default();
        let all = std::iter::once(before).chain(options.into_values()).collect::<Vec<_>>().join(" ");
        lines.push(format!("{}=\"{all}\"\n", args.key));
    }
    Ok(lines.concat())
}

/// The node's subnet, where the file names one.
fn subnet(variables: &Variables) -> Result<Option<Ipv4Net>> {
    let Some(text) = variables.get("FLANNEL_SUBNET").filter(|text| !text.is_empty()) else { return Ok(None) };
    let subnet: Ipv4Net =
        text.parse().with_context(|| format!("FLANNEL_SUBNET is '{text}', which is not a subnet"))?;
    Ok(Some(subnet.trunc()))
}

/// A node that got a subnet which another one had may still have the route to that one; its own pods would be
/// unreachable.
fn refuse_stale_route(subnet: Ipv4Net, routes: &[MainRoute]) -> Result<()> {
    let to_subnet = routes.iter().filter(|route| route.destination == IpNet::V4(subnet));
    match to_subnet.flat_map(|route| &route.hops).find_map(|hop| hop.gateway) {
        None => Ok(()),
        Some(gateway) => bail!(
            "the routing table sends this node's own subnet {subnet} to {gateway}, which is left from a former owner; \
             remove it with `ip route del {subnet} via {gateway}`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::netlink::NextHop;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DockerOptsArgs,
    }

    fn args(line: &str) -> DockerOptsArgs {
        let words = std::iter::once("docker-opts").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).args
    }

    fn variables(text: &str) -> Variables {
        assignments(text).collect()
    }

    const FILE: &str = "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.18.1/25\nFLANNEL_MTU=1450\n";

    /// The expected bytes are those of the script, run under dash and bash.
    #[test]
    fn the_file_has_the_scripts_bytes() {
        let masq = format!("{FILE}FLANNEL_IPMASQ=true\n");
        let no_masq = format!("{FILE}FLANNEL_IPMASQ=false\n");
        let bip = "DOCKER_OPT_BIP=\"--bip=10.77.18.1/25\"\n";
        let mtu = "DOCKER_OPT_MTU=\"--mtu=1450\"\n";
        let each = format!("{bip}DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n{mtu}");
        let all = "=\" --bip=10.77.18.1/25 --ip-masq=false --mtu=1450\"\n";
        let table = [
            ("", masq.clone(), format!("{each}DOCKER_OPTS{all}")),
            ("-i", masq.clone(), each.clone()),
            ("-c", masq.clone(), format!("DOCKER_OPTS{all}")),
            ("-i -c", masq.clone(), format!("{each}DOCKER_OPTS{all}")),
            ("-ick X", masq.clone(), format!("{each}X{all}")),
            ("-c -m -k NET", masq.clone(), "NET=\" --bip=10.77.18.1/25 --mtu=1450\"\n".to_owned()),
            ("-m", masq, format!("{bip}{mtu}DOCKER_OPTS=\" --bip=10.77.18.1/25 --mtu=1450\"\n")),
            ("-i", no_masq, format!("{bip}DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n{mtu}")),
            ("-m", "FLANNEL_IPMASQ=maybe".to_owned(), "DOCKER_OPTS=\"\"\n".to_owned()),
            ("", String::new(), "DOCKER_OPTS=\"\"\n".to_owned()),
            (
                "",
                "FLANNEL_MTU=9\nDOCKER_OPT_Z=z".to_owned(),
                "DOCKER_OPT_MTU=\"--mtu=9\"\nDOCKER_OPT_Z=\"z\"\nDOCKER_OPTS=\" --mtu=9 z\"\n".to_owned(),
            ),
            (
                "-m",
                format!("{FILE}DOCKER_OPTS='--debug  -x'\nDOCKER_OPT_FOO=--foo\nDOCKER_OPT_IPMASQ=mine\n"),
                format!(
                    "{bip}DOCKER_OPT_FOO=\"--foo\"\nDOCKER_OPT_IPMASQ=\"mine\"\n{mtu}DOCKER_OPTS=\"--debug  -x  \
                     --bip=10.77.18.1/25 --foo mine --mtu=1450\"\n"
                ),
            ),
        ];
        for (line, file, expected) in table {
            assert_eq!(render(&args(line), &variables(&file)).expect(line), expected, "{line} {file}");
        }
    }

    #[test]
    fn the_scripts_flags_have_its_defaults() {
        let args = args("");
        assert_eq!(args.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
        assert_eq!(args.output, PathBuf::from("/run/docker_opts.env"));
        let args = self::args("-f/a -d /b");
        assert_eq!((args.subnet_file, args.output), ("/a".into(), "/b".into()));
    }

    #[test]
    fn the_file_is_read_as_a_shell_reads_it() {
        let text = "# FLANNEL_MTU=1\n export A=1\nB=\"two words\"\nC='x'\nB=3\nnot one=4\n5=6\n\nD=";
        let expected = [("A", "1"), ("B", "3"), ("C", "x"), ("D", "")];
        assert_eq!(variables(text), expected.map(|(name, value)| (name.into(), value.into())).into());
    }

    #[test]
    fn nonsense_is_refused() {
        let error = render(&args(""), &variables("FLANNEL_IPMASQ=maybe")).expect_err("not a boolean");
        assert!(error.to_string().contains("FLANNEL_IPMASQ is 'maybe'"), "{error}");
        let error = render(&args("-k a;b"), &variables("")).expect_err("not a name");
        assert!(error.to_string().contains("-k a;b"), "{error}");
        let error = subnet(&variables("FLANNEL_SUBNET=10.1.2.1")).expect_err("not a subnet");
        assert!(error.to_string().contains("FLANNEL_SUBNET is '10.1.2.1'"), "{error}");
    }

    #[test]
    fn a_former_owners_route_is_refused() {
        let local = subnet(&variables(FILE)).expect("valid").expect("there");
        assert_eq!(local.to_string(), "10.77.18.0/25");
        let route = |destination: &str, gateway: Option<&str>| MainRoute {
            destination: destination.parse().expect(destination),
            metric: 0,
            hops: vec![NextHop {
                ifindex: 7,
                gateway: gateway.map(|gateway| gateway.parse().expect(gateway)),
                dead: false,
            }],
        };
        let fine = [
            route("10.77.18.0/25", None),
            route("10.77.18.0/24", Some("192.0.2.1")),
            route("110.77.18.0/25", Some("192.0.2.1")),
            route("0.0.0.0/0", Some("192.0.2.1")),
        ];
        refuse_stale_route(local, &fine).expect("none is the subnet's");
        let stale = [fine.as_slice(), &[route("10.77.18.0/25", Some("192.0.2.12"))]].concat();
        let error = refuse_stale_route(local, &stale).expect_err("stale").to_string();
        assert!(error.contains("ip route del 10.77.18.0/25 via 192.0.2.12"), "{error}");
    }
}
