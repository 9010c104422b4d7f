//! Whose token is this: the token review.

use serde_json::{Value, json};

use crate::{api::Api, failure::Failure, object};

/// TokenReview
pub(super) async fn of_token(api: &Api, review: &Value) -> Result<Value, Failure> {
    let token = object::text(review, &["spec", "token"]);
    if token.is_empty() {
        return Err(Failure::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    if !object::namespace(review).is_empty() {
        return Err(Failure::bad_request(format!(
            "namespace is not allowed on this type: {:?}",
            object::namespace(review)
        )));
    }
    let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
    let asked = asked.into_iter().flatten().filter_map(Value::as_str);
    let mut audiences: Vec<String> = asked.map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = api.tokens.own_audience();
    }
    Ok(match api.tokens.find(token, &audiences).await {
        Ok(known) => json!({
            "authenticated": true, "user": known.user.info(), "audiences": known.audiences,
        }),
        Err(why) => json!({
            "user": {}, "error": format!("[invalid bearer token, {why}]"),
        }),
    })
}
