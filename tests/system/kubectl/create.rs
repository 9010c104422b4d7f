//! `kubectl create …`, `run`, `expose` and `autoscale`: every generator makes what it says.

use anyhow::ensure;
use serde_json::json;

use super::space::Space;

pub fn every_generator_makes_what_it_says() -> anyhow::Result<()> {
    let s = Space::make("generated")?;
    s.words("create deployment d --image=none/x --replicas=0 --port=80")?;
    ensure!(
        s.get("deployment d")?["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
            == 80
    );
    configuration(&s)?;
    access(&s)?;
    workloads(&s)?;
    network(&s)?;
    let said = s.fails("create configmap c --from-literal=a=b")?;
    ensure!(said.contains("configmaps \"c\" already exists"), "{said}");
    let yaml = s.words("create deployment dry --image=none/x --dry-run=client -o yaml")?;
    ensure!(yaml.contains("name: dry"), "{yaml}");
    let made = s.words("create deployment dry --image=none/x --dry-run=server -o yaml")?;
    ensure!(
        made.contains("uid:") && made.contains("revisionHistoryLimit: 10"),
        "{made}"
    );
    s.fails("get deployment dry")?;
    Ok(())
}

fn configuration(s: &Space) -> anyhow::Result<()> {
    let file = s.file("colours.txt", "red\n")?;
    s.k(&[
        "create",
        "configmap",
        "c",
        "--from-literal=a=b",
        "--from-file",
        &file,
    ])?;
    ensure!(s.get("configmap c")?["data"] == json!({"a": "b", "colours.txt": "red\n"}));
    s.words("create secret docker-registry reg --docker-server=r.test --docker-username=u --docker-password=p")?;
    ensure!(s.get("secret reg")?["type"] == "kubernetes.io/dockerconfigjson");
    let made = rcgen::generate_simple_self_signed(["x.test".to_owned()])?;
    let cert = s.file("tls.crt", &made.cert.pem())?;
    let key = s.file("tls.key", &made.signing_key.serialize_pem())?;
    s.k(&[
        "create", "secret", "tls", "t", "--cert", &cert, "--key", &key,
    ])?;
    ensure!(s.get("secret t")?["type"] == "kubernetes.io/tls");
    s.words("create secret generic g --type=example.test/kind --from-literal=k=v")?;
    ensure!(s.get("secret g")?["type"] == "example.test/kind");
    s.words("create quota q --hard=secrets=20,count/deployments.apps=9 --scopes=")?;
    ensure!(s.get("quota q")?["spec"]["hard"]["count/deployments.apps"] == "9");
    s.host.k(&[
        "create",
        "priorityclass",
        "generated",
        "--value=7",
        "--preemption-policy=Never",
    ])?;
    ensure!(s.host.get("priorityclass generated")?["preemptionPolicy"] == "Never");
    s.host.k(&["delete", "priorityclass", "generated"])?;
    Ok(())
}

fn access(s: &Space) -> anyhow::Result<()> {
    s.words("create serviceaccount sa")?;
    let token = s.words("create token sa --duration=10m")?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    s.words("create role r --verb=get,list --resource=pods,deployments.apps --resource-name=x")?;
    ensure!(
        s.get("role r")?["rules"]
            == json!([
                {"apiGroups": [""], "resourceNames": ["x"], "resources": ["pods"], "verbs": ["get", "list"]},
                {"apiGroups": ["apps"], "resourceNames": ["x"], "resources": ["deployments"], "verbs": ["get", "list"]}
            ])
    );
    s.words("create rolebinding rb --role=r --user=ann --group=g --serviceaccount=generated:sa")?;
    ensure!(
        s.get("rolebinding rb")?["subjects"]
            .as_array()
            .map(Vec::len)
            == Some(3)
    );
    s.words("create clusterrole generated --verb=get --non-resource-url=/healthz")?;
    ensure!(
        s.host.get("clusterrole generated")?["rules"][0]["nonResourceURLs"] == json!(["/healthz"])
    );
    s.words("create clusterrolebinding generated --clusterrole=generated --user=ann")?;
    s.words("delete clusterrolebinding,clusterrole generated")?;
    // What the summing-up controller adds to it is there at once.
    s.words("create clusterrole generated-sum --aggregation-rule=generated/sum=yes")?;
    s.words("create clusterrole generated-part --verb=get --resource=pods")?;
    s.words("label clusterrole generated-part generated/sum=yes")?;
    let ten = std::time::Duration::from_secs(10);
    crate::tools::eventually("the aggregated role has the rule", ten, || {
        let role = s.host.get("clusterrole generated-sum")?;
        Ok((role["rules"][0]["resources"] == json!(["pods"])).then_some(()))
    })?;
    s.words("delete clusterrole generated-sum generated-part")?;
    Ok(())
}

fn workloads(s: &Space) -> anyhow::Result<()> {
    s.k(&[
        "create",
        "cronjob",
        "cj",
        "--image=none/x",
        "--schedule=0 0 1 1 *",
        "--",
        "date",
        "-u",
    ])?;
    let made = s.get("cronjob cj")?;
    ensure!(
        made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
            == json!(["date", "-u"])
    );
    s.words("create job once --from=cronjob/cj")?;
    let job = s.get("job once")?;
    ensure!(job["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"] == "manual");
    ensure!(
        job["metadata"]["ownerReferences"][0]["kind"] == "CronJob",
        "{job}"
    );
    s.words("create job plain --image=none/x -- true")?;
    s.words("create poddisruptionbudget b --selector=app=d --min-available=50%")?;
    ensure!(s.get("pdb b")?["spec"]["minAvailable"] == "50%");
    s.words("autoscale deployment d --min=1 --max=5 --cpu=80%")?;
    let scaler = s.get("hpa d")?;
    ensure!(scaler["apiVersion"] == "autoscaling/v2" && scaler["spec"]["maxReplicas"] == 5);
    for version in ["hpa", "horizontalpodautoscalers.v1.autoscaling"] {
        let table = s.words(&format!("get {version}"))?;
        ensure!(table.contains("cpu: <unknown>/80%"), "{table}");
    }
    s.words("delete job,cronjob,hpa,pdb --all")?;
    Ok(())
}

fn network(s: &Space) -> anyhow::Result<()> {
    s.words("create service clusterip s1 --tcp=80:8080 --tcp=443:8443")?;
    ensure!(
        s.get("service s1")?["spec"]["ports"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    );
    s.words("create service clusterip headless --clusterip=None")?;
    ensure!(s.get("service headless")?["spec"]["clusterIP"] == "None");
    s.words("create service nodeport s2 --tcp=80:8080")?;
    ensure!(
        s.get("service s2")?["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .is_some()
    );
    s.words("create service loadbalancer s3 --tcp=80:8080")?;
    // The host gives it its own address as soon as it sees it.
    let table = s.words("get service s3")?;
    let own = ["<pending>", "127.0.0.1"]
        .iter()
        .any(|ip| table.contains(ip));
    ensure!(own, "{table}");
    s.words("create service externalname s4 --external-name=example.test")?;
    ensure!(s.get("service s4")?["spec"]["externalName"] == "example.test");
    s.k(&[
        "create",
        "ingress",
        "i",
        "--class=c",
        "--rule=foo.test/bar*=s1:8080,tls=cert",
    ])?;
    let made = s.get("ingress i")?;
    ensure!(made["spec"]["rules"][0]["http"]["paths"][0]["pathType"] == "Prefix");
    ensure!(made["spec"]["tls"][0]["secretName"] == "cert");
    s.words("expose deployment d --port=80 --target-port=8080")?;
    ensure!(s.get("service d")?["spec"]["selector"] == json!({"app": "d"}));
    s.words("expose service d --name=again --port=81 --type=NodePort")?;
    ensure!(s.get("service again")?["spec"]["selector"] == json!({"app": "d"}));
    s.words("run p --image=none/x --labels=a=b --env=K=V --restart=Never --expose --port=80")?;
    ensure!(s.get("service p")?["spec"]["selector"] == json!({"a": "b"}));
    s.words("delete pod,service,ingress --all --now")?;
    Ok(())
}
