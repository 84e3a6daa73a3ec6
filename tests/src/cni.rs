//! Pods made by real CNI plugins, called as a container runtime calls them (CNI specification 0.3.1: "Parameters",
//! "Network Configuration Lists").

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::flannel::Flannel;
use crate::dialogue::Dialogue;
use crate::families::Families;
use crate::netns::Netns;
use crate::node::Node;
use crate::pod::Pod;

mod flannel;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Where `host-local` remembers addresses.
const STATE: &str = "/var/lib/cni";

/// A container runtime's CNI side on a node.
#[derive(Debug)]
pub struct Runtime<'a> {
    node: &'a Node,
    conflist: PathBuf,
    flannel: Flannel,
}

impl<'a> Runtime<'a> {
    /// One that uses the configuration list in `conflist`, which is read for every pod that comes or goes, as containerd
    /// does. What plugins remember is the node's own.
    pub fn new(node: &'a Node, conflist: &Path) -> Result<Self> {
        let mount = format!("mkdir -p {STATE} && mount -t tmpfs tmpfs {STATE}");
        node.command("sh")
            .arg("-c")
            .arg(mount)
            .run()
            .context("give the node a place for what plugins remember")?;
        Ok(Self { node, conflist: conflist.to_owned(), flannel: Flannel::default() })
    }

    /// Makes a pod. `ports` are pairs of TCP ports: the node's and the pod's.
    pub fn add(&self, name: &str, ports: &[(u16, u16)]) -> Result<Pod> {
        let netns = self.node.bare_pod(name)?;
        let add = || -> Result<(Families<IpAddr>, String)> {
            let mut result = Value::Null;
            for plugin in self.plugins()? {
                let said = self.call("ADD", &plugin, &netns, &result, ports)?;
                result = serde_json::from_str(&said).with_context(|| format!("parse a result: {said}"))?;
            }
            Ok((addresses(&result)?, host_interface(&result)?))
        };
        let (addresses, port) = add().with_context(|| format!("add pod {name} to {}", self.node.name()))?;
        Ok(Pod::made(self.node, name, netns, addresses, &port))
    }

    /// Takes a pod's network away as the runtime does, the plugins in reverse order, before it drops the pod.
    pub fn delete(&self, pod: &Pod, ports: &[(u16, u16)]) -> Result<()> {
        for plugin in self.plugins()?.iter().rev() {
            self.call("DEL", plugin, pod.netns(), &Value::Null, ports)
                .with_context(|| format!("delete pod {}", pod.label()))?;
        }
        Ok(())
    }

    /// How many addresses are given out, as `host-local` remembers them.
    pub fn addresses_in_use(&self) -> Result<usize> {
        let name = self.list()?["name"].as_str().context("the network has no name")?.to_owned();
        let files = self.node.command("ls").arg(format!("{STATE}/networks/{name}")).run()?;
        Ok(files.lines().filter(|file| file.parse::<IpAddr>().is_ok()).count())
    }

    fn list(&self) -> Result<Value> {
        let text = std::fs::read_to_string(&self.conflist)
            .with_context(|| format!("read {}", self.conflist.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", self.conflist.display()))
    }

    /// The configuration of each plugin, as the runtime passes it on.
    fn plugins(&self) -> Result<Vec<Value>> {
        let list = self.list()?;
        let plugins = list["plugins"].as_array().context("there is no list of plugins")?;
        let passed = plugins.iter().map(|plugin| {
            let mut plugin = plugin.clone();
            plugin["cniVersion"] = list["cniVersion"].clone();
            plugin["name"] = list["name"].clone();
            plugin
        });
        Ok(passed.collect())
    }

    fn call(
        &self,
        command: &str,
        plugin: &Value,
        netns: &Netns,
        previous: &Value,
        ports: &[(u16, u16)],
    ) -> Result<String> {
        let mut config = plugin.clone();
        if plugin["type"] == "flannel" {
            match self.flannel.delegate(command, netns.name(), plugin)? {
                Some(delegate) => config = delegate,
                None => return Ok(String::new()),
            }
        }
        let members = config.as_object_mut().context("a plugin's configuration is an object")?;
        let capabilities = members.remove("capabilities").unwrap_or_default();
        if capabilities["portMappings"] == true && !ports.is_empty() {
            let mapping =
                |(host, pod): &(u16, u16)| json!({"hostPort": host, "containerPort": pod, "protocol": "tcp"});
            let mappings: Vec<Value> = ports.iter().map(mapping).collect();
            members.insert("runtimeConfig".into(), json!({ "portMappings": mappings }));
        }
        if !previous.is_null() {
            members.insert("prevResult".into(), previous.clone());
        }
        let kind = config["type"].as_str().context("a plugin has no type")?.to_owned();
        let environment: BTreeMap<&str, String> = BTreeMap::from([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", netns.name().to_owned()),
            ("CNI_NETNS", netns.path().display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", PLUGINS.to_owned()),
        ]);
        let command = self.node.command(format!("{PLUGINS}/{kind}"));
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let mut plugin = Dialogue::start(&command)?;
        plugin.say(&config.to_string())?;
        plugin.finish().with_context(|| format!("{kind} with {config}"))
    }
}

/// The addresses in a result's `ips`: one of each family at most.
fn addresses(result: &Value) -> Result<Families<IpAddr>> {
    let ips = result["ips"].as_array().context("a result without ips")?;
    let mut addresses = Vec::new();
    for ip in ips {
        let text = ip["address"].as_str().and_then(|text| text.split('/').next()).unwrap_or_default();
        addresses.push(text.parse::<IpAddr>().with_context(|| format!("parse an address of {result}"))?);
    }
    let of = |v6: bool| addresses.iter().copied().find(|address| address.is_ipv6() == v6);
    ensure!(
        addresses.len() == usize::from(of(false).is_some()) + usize::from(of(true).is_some()),
        "{result}"
    );
    Families::new(of(false), of(true)).with_context(|| format!("no address in {result}"))
}

/// The interface of the node that leads to the pod.
fn host_interface(result: &Value) -> Result<String> {
    let mut interfaces = result["interfaces"].as_array().into_iter().flatten();
    let outside = interfaces.find(|interface| {
        let name = interface["name"].as_str().unwrap_or_default();
        name.starts_with("veth") && interface["sandbox"].as_str().unwrap_or_default().is_empty()
    });
    let name = outside.and_then(|interface| interface["name"].as_str());
    Ok(name.with_context(|| format!("no interface of the node in {result}"))?.to_owned())
}
