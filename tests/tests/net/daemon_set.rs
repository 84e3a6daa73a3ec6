//! The DaemonSet's container without a container engine: the image's files as `deploy/rootfs.sh` lays them out, the
//! arguments, capabilities and mounts of the manifest, a root and a `/proc/sys` that are read-only.

use std::fs;
use std::path::PathBuf;

use ovl_tests::artifacts;
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::cni::Runtime;
use ovl_tests::command::Cmd;
use ovl_tests::node::Node;
use ovl_tests::traffic;
use ovl_tests::wait::wait_for;
use serde_json::Value;

use crate::cni::{conflist, flags};
use crate::kubernetes::Cluster;
use crate::overlay::{DUAL, ONLY_IPV4, SOON, VERIFIED, config};

/// All that Linux has, as `capsh` names them: what is not added is dropped.
const CAPABILITIES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap \
    linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot \
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
    audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
    checkpoint_restore";

fn manifest(name: &str) -> Value {
    let path = artifacts::workspace().join("deploy").join(name);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// The container of the manifest's pod on a node.
struct Container<'a> {
    node: &'a Node,
    pod: Value,
    image: PathBuf,
}

impl<'a> Container<'a> {
    fn new(node: &'a Node) -> Self {
        let pod = manifest("kubernetes/daemonset.yaml")["spec"]["template"]["spec"].clone();
        let image = node.dir().join("image");
        let rootfs = artifacts::workspace().join("deploy/rootfs.sh");
        Cmd::host("sh").arg(rootfs).arg(&image).arg(artifacts::agent_binary().unwrap()).run().unwrap();
        Self { node, pod, image }
    }

    /// With the component for the backend udp, whose lists kustomize joins to the pod's.
    fn with_udp(mut self) -> Self {
        let more = &manifest("udp/tun.yaml")["spec"]["template"]["spec"];
        for list in ["/volumes", "/containers/0/volumeMounts"] {
            let more = more.pointer(list).unwrap().as_array().unwrap().clone();
            self.pod.pointer_mut(list).unwrap().as_array_mut().unwrap().extend(more);
        }
        self
    }

    /// The folder of the network config.
    fn configure(&self, cluster: &Cluster) {
        let configs = self.on_node("config");
        fs::create_dir_all(&configs).unwrap();
        fs::copy(&cluster.config, configs.join("net-conf.json")).unwrap();
    }

    fn spec(&self) -> &Value {
        &self.pod["containers"][0]
    }

    /// What stands on the node for a path of a real one's.
    fn on_node(&self, path: &str) -> PathBuf {
        self.node.dir().join("host").join(path.trim_start_matches('/'))
    }

    /// Where a volume's files come from.
    fn source(&self, volume: &str) -> PathBuf {
        let volumes = self.pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|row| row["name"] == volume).unwrap();
        let Some(path) = volume["hostPath"]["path"].as_str() else {
            return self.on_node(volume["name"].as_str().unwrap());
        };
        // These are the network namespace's and the node's own.
        let is_its_own = ["/dev/", "/proc/", "/sys/"].iter().any(|start| path.starts_with(start));
        if is_its_own { path.into() } else { self.on_node(path) }
    }

    /// What a runtime does before it starts a container.
    fn script(&self) -> String {
        let image = self.image.display();
        let mut script = vec![format!(
            "set -e; mount --bind {image} {image}; cd {image}
            mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
            mount --bind /sys sys; mount -o remount,bind,ro sys
            mount -t tmpfs tmpfs dev; touch dev/null dev/urandom
            mount --bind /dev/null dev/null; mount --bind /dev/urandom dev/urandom"
        )];
        for mount in self.spec()["volumeMounts"].as_array().unwrap() {
            let source = self.source(mount["name"].as_str().unwrap());
            if source.extension().is_some_and(|extension| extension == "lock") {
                fs::create_dir_all(source.parent().unwrap()).unwrap();
                fs::write(&source, "").unwrap();
            } else if !source.exists() {
                fs::create_dir_all(&source).unwrap();
            }
            let place = mount["mountPath"].as_str().unwrap().trim_start_matches('/');
            if place.starts_with("dev/") {
                script.push(format!("mkdir -p $(dirname {place}); touch {place}"));
            }
            script.push(format!("mount --bind {} {place}", source.display()));
            if mount["readOnly"] == true {
                script.push(format!("mount -o remount,bind,ro {place}"));
            }
        }
        let security = &self.spec()["securityContext"];
        assert_eq!(words(&security["capabilities"]["drop"]), ["ALL"]);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert!(security.get("privileged").is_none());
        let added: Vec<String> =
            words(&security["capabilities"]["add"]).iter().map(|name| name.to_lowercase()).collect();
        let dropped: Vec<String> = CAPABILITIES
            .split_whitespace()
            .filter(|name| !added.iter().any(|added| added == name))
            .map(|name| format!("cap_{name}"))
            .collect();
        assert_eq!(dropped.len() + added.len(), CAPABILITIES.split_whitespace().count(), "{added:?}");
        script.push(format!(
            "mount -o remount,bind,ro {image}; cd /
            exec capsh --chroot={image} --drop={} --no-new-privs --shell=/usr/bin/ovl-agent -- \"$@\"",
            dropped.join(",")
        ));
        script.join("\n")
    }

    /// Starts the agent. `more` are flags that the test adds to the manifest's.
    fn start(&self, more: &str) -> Background {
        let address = self.node.address().to_string();
        let arguments =
            words(&self.spec()["args"]).into_iter().map(|word| word.replace("$(POD_IP)", &address));
        let arguments: Vec<String> = arguments.chain(more.split_whitespace().map(str::to_owned)).collect();
        let command = self.node.command("unshare").words("--mount sh -c").arg(self.script()).arg("sh");
        let command = command
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NODE_NAME", self.node.name());
        let log = self.node.dir().join("container.log");
        Background::start(&command, &log, Lifetime::WithHarness).unwrap()
    }

    fn status(&self) -> Value {
        let socket = self.on_node("run-ovl").join("agent.sock");
        let ask = Cmd::host(artifacts::agent_binary().unwrap()).words("status --json --socket").arg(socket);
        serde_json::from_str(&ask.run().unwrap()).unwrap()
    }

    fn forwarded(&self) -> u64 {
        let status = self.status();
        let rows = status["counters"].as_array().unwrap();
        let is_it = |row: &&Value| row["program"] == "from_pod" && row["reason"] == "forwarded";
        rows.iter().find(is_it).and_then(|row| row["packets"].as_u64()).unwrap_or(0)
    }

    fn has_pins(&self) -> bool {
        !self.node.command("ls").arg("/sys/fs/bpf/ovl").run().unwrap().is_empty()
    }
}

fn wait_ready(agent: &Background) {
    let is_ready = || Ok(agent.log().contains("ready:"));
    wait_for("the container's agent to be ready", SOON * 4, is_ready)
        .unwrap_or_else(|error| panic!("{error:#}: {}", agent.log()));
}

#[test]
fn the_manifests_capabilities_and_mounts_suffice() {
    let rules =
        [(true, "nft list ruleset"), (false, "iptables-nft -t nat -S"), (false, "iptables-legacy -t nat -S")];
    for (nftables, rules) in rules {
        let network = format!(r#"{ONLY_IPV4},"EnableNFTables":{nftables}"#);
        let cluster = Cluster::new("daemonset", 2, &config(&[&network], r#"{"Type":"vxlan"}"#));
        let (here, there) = (cluster.node(0), cluster.node(1));
        let peer = cluster.start(1, &flags(there, VERIFIED));
        let container = Container::new(here);
        if rules.starts_with("iptables-legacy") {
            // As the kubelet does, for tools in containers to write rules where the host has its own.
            here.command("iptables-legacy").words("-t mangle -N KUBE-IPTABLES-HINT").run().unwrap();
        }
        container.configure(&cluster);
        let url = cluster.server.url();
        let more = format!("--mode ebpf --strict --verify-interval 2 --iface eth0 --kube-api-url {url}");
        let mut agent = container.start(&more);
        wait_ready(&agent);
        peer.wait_for_peers(1).unwrap();

        let written = container.on_node("/etc/cni/net.d/10-flannel.conflist");
        let pods = [
            Runtime::new(here, &written).unwrap().add("a", &[]).unwrap(),
            Runtime::new(there, &conflist(there)).unwrap().add("a", &[]).unwrap(),
        ];
        traffic::ping_all_pairs(&pods).unwrap();
        wait_for("the fast path", SOON, || {
            traffic::ping_burst(pods[0].netns(), pods[1].address(), 20)?;
            Ok(container.forwarded() > 10)
        })
        .unwrap();
        // TCP may use it, too.
        let liberal = here
            .netns()
            .command("sysctl")
            .words("-n net.netfilter.nf_conntrack_tcp_be_liberal")
            .run()
            .unwrap();
        assert_eq!(liberal.trim(), "1");
        assert!(container.has_pins(), "programs outlive the agent");
        let rules = here.command("sh").arg("-c").arg(rules).run().unwrap();
        assert!(rules.to_lowercase().contains("masquerade"), "{rules}");
        let health = |path: &str| {
            let url = format!("http://{}:9472{path}", here.address());
            let get = format!(
                "exec 3<>/dev/tcp/{}/9472; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3",
                here.address()
            );
            let said = here.command("bash").arg("-c").arg(get).run().unwrap();
            assert!(said.contains("200"), "{url}: {said}");
        };
        for probe in ["livenessProbe", "readinessProbe"] {
            health(container.spec()[probe]["httpGet"]["path"].as_str().unwrap());
        }
        health("/metrics");
        let log = agent.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");

        // A rolling update.
        let ping = traffic::PingInBackground::start(pods[0].netns(), pods[1].address()).unwrap();
        agent.stop(nix::sys::signal::Signal::SIGTERM, SOON).unwrap();
        let agent = container.start(&more);
        wait_ready(&agent);
        ping.wait_for_more(20, SOON).unwrap();
        assert_eq!(ping.stop().unwrap().lost(), 0);
    }
}

/// The same for packets through a TUN device, which no other backend needs.
#[test]
fn the_udp_backend_has_its_device() {
    let cluster = Cluster::new("daemonset-udp", 2, &config(&[DUAL], r#"{"Type":"udp"}"#));
    let (here, there) = (cluster.node(0), cluster.node(1));
    let peer = cluster.start(1, &flags(there, ""));
    let more = format!("--iface eth0 --kube-api-url {}", cluster.server.url());
    let container = Container::new(here);
    container.configure(&cluster);
    let mut agent = container.start(&more);
    wait_for("a word about the device", SOON, || Ok(agent.log().contains("cannot open /dev/net/tun")))
        .unwrap();
    agent.stop(nix::sys::signal::Signal::SIGTERM, SOON).unwrap();

    let container = container.with_udp();
    let agent = container.start(&more);
    wait_ready(&agent);
    peer.wait_for_peers(1).unwrap();
    let written = container.on_node("/etc/cni/net.d/10-flannel.conflist");
    let pods = [
        Runtime::new(here, &written).unwrap().add("a", &[]).unwrap(),
        Runtime::new(there, &conflist(there)).unwrap().add("a", &[]).unwrap(),
    ];
    traffic::ping_all_pairs(&pods).unwrap();
    let log = agent.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// What the manifest lets an agent do is what an agent asks for.
#[test]
fn the_manifests_role_suffices() {
    let roles = fs::read_to_string(artifacts::workspace().join("deploy/kubernetes/rbac.yaml")).unwrap();
    let roles: Vec<Value> = serde_saphyr::from_multiple(&roles).unwrap();
    let role = roles.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let allowed: Vec<String> = role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| {
            let resources = words(&rule["resources"]);
            words(&rule["verbs"]).into_iter().flat_map(move |verb| {
                resources.clone().into_iter().map(move |resource| format!("{verb} {resource}"))
            })
        })
        .collect();
    let cluster = Cluster::new("role", 1, &config(&[ONLY_IPV4], r#"{"Type":"vxlan"}"#));
    let _agent = cluster.start(0, "--mode kernel");
    cluster.wait_for_condition("node1", "False", SOON);
    let asked = cluster.server.asked();
    for question in &asked {
        assert!(allowed.contains(question), "{question} is not among {allowed:?}");
    }
    for right in &allowed {
        assert!(asked.contains(right), "nobody asks to {right}: {asked:?}");
    }
}
