//! Commands of those who run the cluster: nodes, certificates, rights, the whole state.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::space::Space;
use crate::{
    host::{Host, shared},
    tools::{curl, guest, run, succeed},
};

/// A node that nobody's agent serves, so that what happens to it disturbs no other case.
fn spare_node(host: &Host, name: &str) -> anyhow::Result<()> {
    host.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
    ))?;
    Ok(())
}

pub fn nodes_are_cordoned_and_tainted() -> anyhow::Result<()> {
    let host = shared()?;
    spare_node(host, "spare-taints")?;
    let taints = || -> anyhow::Result<Vec<Value>> {
        let node = host.get("node spare-taints")?;
        let all = node["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(all.into_iter().filter(|t| t["key"] == "a").collect())
    };
    host.k(&["cordon", "spare-taints"])?;
    let table = host.k(&["get", "node", "spare-taints"])?;
    ensure!(table.contains("SchedulingDisabled"), "{table}");
    host.k(&["uncordon", "spare-taints"])?;
    ensure!(host.get("node spare-taints")?["spec"]["unschedulable"].is_null());
    host.k(&[
        "taint",
        "node",
        "spare-taints",
        "a=b:NoSchedule",
        "a=b:PreferNoSchedule",
    ])?;
    ensure!(taints()?.len() == 2);
    let said = host.k_fails(&["taint", "node", "spare-taints", "a=b:NoSchedule"])?;
    ensure!(said.contains("--overwrite is false"), "{said}");
    host.k(&[
        "taint",
        "node",
        "spare-taints",
        "a=c:NoSchedule",
        "--overwrite",
    ])?;
    ensure!(taints()?.contains(&json!({"key": "a", "value": "c", "effect": "NoSchedule"})));
    host.k(&["taint", "node", "spare-taints", "a:NoSchedule-"])?;
    ensure!(taints()?.len() == 1);
    host.k(&["taint", "node", "spare-taints", "a-"])?;
    ensure!(taints()?.is_empty());
    host.k(&["delete", "node", "spare-taints"])?;
    Ok(())
}

pub fn draining_evicts_what_may_go() -> anyhow::Result<()> {
    let s = Space::make("drained")?;
    spare_node(s.host, "spare-drained")?;
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: spare-drained\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: none/x}}]\n{more}---\n"
        )
    };
    s.apply(&format!(
        "{}{}",
        pod("bare", ""),
        pod("data", "  volumes: [{name: v, emptyDir: {}}]\n")
    ))?;
    let said = s.fails("drain spare-drained")?;
    ensure!(
        said.contains("declare no controller") && said.contains("drained/bare"),
        "{said}"
    );
    ensure!(s.host.get("node spare-drained")?["spec"]["unschedulable"] == true);
    s.k(&[
        "drain",
        "spare-drained",
        "--force",
        "--delete-emptydir-data",
        "--dry-run=server",
    ])?;
    ensure!(
        s.get("pods")?["items"].as_array().map(Vec::len) == Some(2),
        "a dry run evicted"
    );
    s.k(&[
        "drain",
        "spare-drained",
        "--force",
        "--delete-emptydir-data",
        "--timeout=60s",
    ])?;
    ensure!(
        s.get("pods")?["items"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    s.host.k(&["delete", "node", "spare-drained"])?;
    Ok(())
}

/// A request that no built-in signer answers.
pub fn signing_request(name: &str) -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let names = vec!["ann.test".to_owned()];
    let request = rcgen::CertificateParams::new(names)?.serialize_request(&key)?;
    let request = STANDARD.encode(request.pem()?);
    Ok(format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec: {{request: {request}, signerName: example.test/none, usages: [client auth]}}\n"
    ))
}

pub fn certificates_are_approved_and_denied() -> anyhow::Result<()> {
    let s = Space::make("certificates")?;
    for name in ["kubectl-a", "kubectl-b"] {
        s.apply(&signing_request(name)?)?;
        let table = s.words(&format!("get csr {name}"))?;
        ensure!(
            table.contains("Pending") && table.contains("example.test/none"),
            "{table}"
        );
    }
    s.words("certificate approve kubectl-a")?;
    s.words("certificate deny kubectl-b")?;
    for (name, condition) in [("kubectl-a", "Approved"), ("kubectl-b", "Denied")] {
        let table = s.words(&format!("get csr {name}"))?;
        ensure!(table.contains(condition), "{table}");
        let csr = s.host.get(&format!("csr {name}"))?;
        ensure!(csr["status"]["conditions"][0]["type"] == condition, "{csr}");
        ensure!(csr["status"]["conditions"][0]["status"] == "True", "{csr}");
    }
    let said = s.fails("certificate deny kubectl-a")?;
    ensure!(said.contains("already Approved"), "{said}");
    s.words("delete csr kubectl-a kubectl-b")?;
    Ok(())
}

pub fn rights_are_listed_and_reconciled() -> anyhow::Result<()> {
    let s = Space::make("reconciled")?;
    let manifest = |verb: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: r, namespace: reconciled}}\n\
             rules: [{{apiGroups: [\"\"], resources: [pods], verbs: [{verb}]}}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: r, namespace: reconciled}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}\n\
             subjects: [{{kind: User, apiGroup: rbac.authorization.k8s.io, name: ann}}]\n"
        )
    };
    let reconcile = |verb: &str, more: &[&str]| {
        let file = s.file("rights.yaml", &manifest(verb))?;
        let mut arguments = vec!["auth", "reconcile", "-f", &file];
        arguments.extend(more);
        s.k(&arguments)
    };
    reconcile("get", &[])?;
    reconcile("list", &[])?;
    ensure!(s.get("role r")?["rules"].as_array().map(Vec::len) == Some(2));
    reconcile("list", &["--remove-extra-permissions"])?;
    ensure!(s.get("role r")?["rules"][0]["verbs"] == json!(["list"]));
    let listed = s.words("auth can-i --list --as=ann")?;
    let row = listed
        .lines()
        .find(|line| line.starts_with("pods "))
        .context("pods")?;
    ensure!(row.ends_with("[list]"), "{listed}");
    ensure!(s.words("auth can-i list pods --as=ann")?.trim() == "yes");
    let output = run(&mut s.command(&["auth", "can-i", "delete", "pods", "--as=ann"]))?;
    ensure!(
        output.status.code() == Some(1) && output.stdout == b"no\n",
        "{output:?}"
    );
    let who: Value = serde_json::from_str(&s.words("auth whoami --as=ann --as-group=g -o json")?)?;
    ensure!(
        who["status"]["userInfo"]["groups"] == json!(["g", "system:authenticated"]),
        "{who}"
    );
    Ok(())
}

pub fn the_whole_state_is_dumped_and_served_by_proxy() -> anyhow::Result<()> {
    let s = Space::make("dumped")?;
    s.words("create deployment d --image=none/x --replicas=0")?;
    let folder = s.file("dump/marker", "")?;
    let folder = folder.trim_end_matches("/marker");
    s.k(&[
        "cluster-info",
        "dump",
        "--namespaces=dumped",
        "--output-directory",
        folder,
    ])?;
    let deployments = std::fs::read_to_string(format!("{folder}/dumped/deployments.json"))?;
    ensure!(deployments.contains("\"name\": \"d\""), "{deployments}");
    ensure!(std::fs::read_to_string(format!("{folder}/nodes.json"))?.contains("\"island\""));
    let info = s.words("cluster-info")?;
    ensure!(
        info.contains(&format!("127.0.0.1:{}", s.host.ports.api)),
        "{info}"
    );
    let version: Value = serde_json::from_str(&s.words("version -o json")?)?;
    ensure!(
        version["serverVersion"]["major"] == "1" && version["serverVersion"]["minor"] == "36",
        "{version}"
    );
    let ready = s.words("get --raw /readyz?verbose")?;
    ensure!(ready.contains("readyz check passed"), "{ready}");

    let mut proxy = s
        .command(&["proxy", "--port=0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let answered = || -> anyhow::Result<()> {
        let mut line = String::new();
        let out = proxy.stdout.take().context("output")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .context("address")?
            .to_owned();
        let (status, body) = curl(&[&format!("http://{address}/api/v1/namespaces/dumped")])?;
        ensure!(
            status == 200 && body.contains("\"dumped\""),
            "{status} {body}"
        );
        Ok(())
    };
    let answered = { answered }();
    proxy.kill()?;
    proxy.wait()?;
    answered
}

pub fn pods_and_nodes_are_debugged() -> anyhow::Result<()> {
    let s = Space::make("debugged")?;
    s.host.push("debugged/web:v1", &guest("hello_web")?)?;
    s.words("run p --image=debugged/web:v1 --port=8080 --labels=a=b")?;
    s.words("wait --for=condition=Ready pod/p --timeout=60s")?;
    s.words("debug p --image=none/x -c looking --profile=general")?;
    let pod = s.get("pod p")?;
    ensure!(
        pod["spec"]["ephemeralContainers"][0]["name"] == "looking",
        "{pod}"
    );
    let said = s.fails("debug p --image=none/x -c looking")?;
    ensure!(
        said.contains("existing ephemeral containers \"looking\" may not be changed"),
        "{said}"
    );
    s.words("debug p --image=debugged/web:v1 --copy-to=copy --share-processes --container=extra")?;
    let copy = s.get("pod copy")?;
    ensure!(copy["spec"]["shareProcessNamespace"] == true, "{copy}");
    ensure!(copy["spec"]["containers"].as_array().map(Vec::len) == Some(2));
    ensure!(
        copy["metadata"]["labels"].is_null(),
        "a copy is behind no service"
    );
    s.words("debug p --copy-to=other --set-image=*=debugged/web:v2")?;
    ensure!(s.get("pod other")?["spec"]["containers"][0]["image"] == "debugged/web:v2");
    // On a node: a pod of its own in the host's namespaces, with its file system.
    let debug = [
        "debug",
        "node/island",
        "--image=debugged/web:v1",
        "--attach=false",
    ];
    succeed(&mut s.command(&debug))?;
    let pods = s.get("pods -l app.kubernetes.io/managed-by=kubectl-debug")?;
    let node = &pods["items"][0]["spec"];
    ensure!(
        node["nodeName"] == "island" && node["hostPID"] == true,
        "{pods}"
    );
    ensure!(node["volumes"][0]["hostPath"]["path"] == "/", "{pods}");
    s.words("delete pods --all --now --timeout=60s")?;
    Ok(())
}
