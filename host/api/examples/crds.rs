//! Prints the custom resource definitions as JSON, for `kubectl apply -f -` on another cluster.

fn main() -> serde_json::Result<()> {
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": eyot_api::crds() });
    serde_json::to_writer_pretty(std::io::stdout().lock(), &list)
}
