//! The container of the DaemonSet's pod, started as a runtime does.

use std::fs;
use std::path::PathBuf;

use ovl_tests::artifacts;
use ovl_tests::background::{Background, Lifetime};
use ovl_tests::command::Cmd;
use ovl_tests::node::Node;
use ovl_tests::topology::SWITCH_ADDRESS;
use serde_json::Value;

use super::access::{Access, SERVICE_ACCOUNT};
use super::{manifest, words};
use crate::kubernetes::Cluster;

/// All that Linux has, as `capsh` names them: what is not added is dropped.
const CAPABILITIES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap \
    linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot \
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
    audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
    checkpoint_restore";

/// The container of the manifest's pod on a node.
pub(super) struct Container<'a> {
    node: &'a Node,
    access: &'a Access,
    pod: Value,
    image: PathBuf,
}

impl<'a> Container<'a> {
    pub(super) fn new(node: &'a Node, access: &'a Access) -> Self {
        let pod = manifest("kubernetes/daemonset.yaml")["spec"]["template"]["spec"].clone();
        let image = node.dir().join("image");
        let rootfs = artifacts::workspace().join("deploy/rootfs.sh");
        Cmd::host("sh").arg(rootfs).arg(&image).arg(artifacts::agent_binary().unwrap()).run().unwrap();
        Self { node, access, pod, image }
    }

    /// With the component for the backend udp, whose lists kustomize joins to the pod's.
    pub(super) fn with_udp(mut self) -> Self {
        let more = &manifest("udp/tun.yaml")["spec"]["template"]["spec"];
        for list in ["/volumes", "/containers/0/volumeMounts"] {
            let more = more.pointer(list).unwrap().as_array().unwrap().clone();
            self.pod.pointer_mut(list).unwrap().as_array_mut().unwrap().extend(more);
        }
        self
    }

    /// The folder of the network config.
    pub(super) fn configure(&self, cluster: &Cluster) {
        let configs = self.on_node("config");
        fs::create_dir_all(&configs).unwrap();
        fs::copy(&cluster.config, configs.join("net-conf.json")).unwrap();
    }

    pub(super) fn spec(&self) -> &Value {
        &self.pod["containers"][0]
    }

    /// What stands on the node for a path of a real one's.
    pub(super) fn on_node(&self, path: &str) -> PathBuf {
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
            mount --bind /dev/null dev/null; mount --bind /dev/urandom dev/urandom
            mkdir -p {SERVICE_ACCOUNT}; mount --bind {} {SERVICE_ACCOUNT}
            mount -o remount,bind,ro {SERVICE_ACCOUNT}",
            self.access.folder.display()
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
    pub(super) fn start(&self, more: &str) -> Background {
        let address = self.node.address().to_string();
        let arguments =
            words(&self.spec()["args"]).into_iter().map(|word| word.replace("$(POD_IP)", &address));
        let arguments: Vec<String> = arguments.chain(more.split_whitespace().map(str::to_owned)).collect();
        let command = self.node.command("unshare").words("--mount sh -c").arg(self.script()).arg("sh");
        let command = command
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NODE_NAME", self.node.name())
            .env("KUBERNETES_SERVICE_HOST", SWITCH_ADDRESS.to_string())
            .env("KUBERNETES_SERVICE_PORT", "443");
        let log = self.node.dir().join("container.log");
        Background::start(&command, &log, Lifetime::WithHarness).unwrap()
    }

    fn status(&self) -> Value {
        let socket = self.on_node("run-ovl").join("agent.sock");
        let ask = Cmd::host(artifacts::agent_binary().unwrap()).words("status --json --socket").arg(socket);
        serde_json::from_str(&ask.run().unwrap()).unwrap()
    }

    pub(super) fn forwarded(&self) -> u64 {
        let status = self.status();
        let rows = status["counters"].as_array().unwrap();
        let is_it = |row: &&Value| row["program"] == "from_pod" && row["reason"] == "forwarded";
        rows.iter().find(is_it).and_then(|row| row["packets"].as_u64()).unwrap_or(0)
    }

    pub(super) fn has_pins(&self) -> bool {
        !self.node.command("ls").arg("/sys/fs/bpf/ovl").run().unwrap().is_empty()
    }
}
