//! From the claims of a token to a user: claims by name, or expressions over all of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    auth::CREDENTIAL_ID,
    cel::{self, Bindings, Budget, Env, PER_OBJECT, Program, Type},
    field_error::FieldError,
    user::{Identity, User},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MappingFile {
    username: Part,
    #[serde(default)]
    groups: Part,
    #[serde(default)]
    uid: Part,
    #[serde(default)]
    extra: Vec<ExtraFile>,
}

/// Where a part of the user comes from.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(default)]
    claim: String,
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ExtraFile {
    key: String,
    value_expression: String,
}

/// What must hold of claims, or of the user.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Rule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

/// Makes users of claims.
pub(crate) struct Mapping {
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Expression)>,
    claims: Vec<Demand>,
    user: Vec<Demand>,
}

enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

struct Expression {
    text: String,
    program: Program,
}

enum Demand {
    Equal { claim: String, value: String },
    True(Expression, String),
}

/// Compiles what a configuration says.
struct Compiler<'a> {
    path: &'a str,
    errors: &'a mut Vec<FieldError>,
}

impl Compiler<'_> {
    fn expression(&mut self, field: &str, text: &str, variable: &str) -> Option<Expression> {
        let env = Env::new().variable(variable, Type::Dyn);
        match Program::compile(text, &env) {
            Ok(program) => Some(Expression {
                text: text.to_owned(),
                program,
            }),
            Err(error) => {
                let why = format!("compilation failed: {error}");
                self.invalid(field, text, &why);
                None
            }
        }
    }

    fn invalid(&mut self, field: &str, value: &str, why: &str) {
        let field = format!("{}.{field}", self.path);
        self.errors
            .push(FieldError::invalid(field, &value.into(), why));
    }

    fn required(&mut self, field: &str, why: &str) {
        let field = format!("{}.{field}", self.path);
        self.errors.push(FieldError::required(field, why));
    }

    fn source(&mut self, name: &str, part: Part, has_prefix: bool) -> Option<Source> {
        let field = format!("claimMappings.{name}");
        match (part.claim.as_str(), part.expression.as_str()) {
            ("", "") => None,
            (_, "") => {
                if has_prefix && part.prefix.is_none() {
                    let why = "prefix is required when claim is set. It can be set to an empty \
                               string to disable prefixing";
                    self.required(&format!("{field}.prefix"), why);
                }
                Some(Source::Claim {
                    name: part.claim,
                    prefix: part.prefix.unwrap_or_default(),
                })
            }
            ("", text) => {
                if part.prefix.is_some_and(|prefix| !prefix.is_empty()) {
                    let why = "prefix can't be set when expression is";
                    self.invalid(&format!("{field}.prefix"), "", why);
                }
                let compiled = self.expression(&format!("{field}.expression"), text, "claims")?;
                Some(Source::Expression(compiled))
            }
            _ => {
                self.invalid(&field, "", "claim and expression can't both be set");
                None
            }
        }
    }

    fn demands(&mut self, list: &str, rules: Vec<Rule>, variable: &str) -> Vec<Demand> {
        let mut demands = Vec::new();
        for (index, rule) in rules.into_iter().enumerate() {
            let field = format!("{list}[{index}]");
            match (rule.claim.as_str(), rule.expression.as_str()) {
                (claim, "") if !claim.is_empty() && variable == "claims" => {
                    demands.push(Demand::Equal {
                        claim: rule.claim,
                        value: rule.required_value,
                    });
                }
                ("", text) if !text.is_empty() => {
                    let field = format!("{field}.expression");
                    let compiled = self.expression(&field, text, variable);
                    demands.extend(compiled.map(|one| Demand::True(one, rule.message)));
                }
                ("", "") => self.required(&field, "claim or expression is required"),
                _ => self.invalid(&field, "", "claim and expression can't both be set"),
            }
        }
        demands
    }
}

impl Mapping {
    pub(super) fn compile(
        file: MappingFile,
        claims: Vec<Rule>,
        user: Vec<Rule>,
        path: &str,
        errors: &mut Vec<FieldError>,
    ) -> Option<Mapping> {
        let mut compiler = Compiler { path, errors };
        let before = compiler.errors.len();
        let username = compiler.source("username", file.username, true);
        if username.is_none() && compiler.errors.len() == before {
            let why = "claim or expression is required";
            compiler.required("claimMappings.username", why);
        }
        let groups = compiler.source("groups", file.groups, true);
        let uid = compiler.source("uid", file.uid, false);
        let mut extra: Vec<(String, Expression)> = Vec::new();
        for (index, one) in file.extra.into_iter().enumerate() {
            let field = format!("claimMappings.extra[{index}]");
            if let Some(why) = wrong_key(&one.key) {
                compiler.invalid(&format!("{field}.key"), &one.key, why);
            } else if extra.iter().any(|(key, _)| *key == one.key) {
                let field = format!("{path}.{field}.key");
                let duplicate = FieldError::duplicate(field, &one.key.as_str().into());
                compiler.errors.push(duplicate);
            }
            let field = format!("{field}.valueExpression");
            let compiled = compiler.expression(&field, &one.value_expression, "claims");
            extra.extend(compiled.map(|value| (one.key, value)));
        }
        let claims = compiler.demands("claimValidationRules", claims, "claims");
        let user = compiler.demands("userValidationRules", user, "user");
        Some(Mapping {
            username: username?,
            groups,
            uid,
            extra,
            claims,
            user,
        })
    }

    /// The user whom the claims describe, or why there is none.
    pub(super) fn user(&self, claims: &Value) -> Result<User, String> {
        let mut budget = Budget::new(PER_OBJECT);
        for demand in &self.claims {
            demand.check("claims", claims, &mut budget)?;
        }
        let name = self.username.one("username", claims, &mut budget)?;
        if let Source::Claim { name: claim, .. } = &self.username
            && claim == "email"
            && claims.get("email_verified").is_some_and(|is| *is != true)
        {
            return Err("oidc: email not verified".to_owned());
        }
        if name.is_empty() {
            return Err("oidc: the username is empty".to_owned());
        }
        let groups = match &self.groups {
            Some(groups) => groups.many("groups", claims, &mut budget)?,
            None => Vec::new(),
        };
        let uid = match &self.uid {
            Some(uid) => uid.one("uid", claims, &mut budget)?,
            None => String::new(),
        };
        let mut extra = BTreeMap::new();
        for (key, value) in &self.extra {
            let value = value.eval("claims", claims, &mut budget)?;
            let mut values = texts(&value)
                .ok_or_else(|| format!("oidc: extra {key:?} must be a string or a list of them"))?;
            values.retain(|text| !text.is_empty());
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str)
            && !id.is_empty()
        {
            extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        let identity = Identity {
            name,
            uid,
            groups,
            extra,
        };
        if !self.user.is_empty() {
            let shown = json!({
                "username": identity.name, "uid": identity.uid, "groups": identity.groups,
                "extra": identity.extra,
            });
            for demand in &self.user {
                demand.check("user", &shown, &mut budget)?;
            }
        }
        Ok(identity.authenticated())
    }
}

/// Keys of extra are paths below a domain that is not Kubernetes' own.
fn wrong_key(key: &str) -> Option<&'static str> {
    let Some((domain, path)) = key.split_once('/') else {
        return Some("must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    let below = |own: &str| domain == own || domain.ends_with(&format!(".{own}"));
    if domain.is_empty() || path.is_empty() {
        Some("must be a domain-prefixed path (such as \"acme.io/foo\")")
    } else if key.chars().any(char::is_uppercase) {
        Some("key must be lowercase")
    } else if below("k8s.io") || below("kubernetes.io") {
        Some("k8s.io, kubernetes.io and their subdomains are reserved")
    } else {
        None
    }
}

/// A text, or a list of texts; nothing for null.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => {
            let texts = many.iter().map(|one| one.as_str().map(str::to_owned));
            texts.collect()
        }
        _ => None,
    }
}

impl Source {
    fn one(&self, what: &str, claims: &Value, budget: &mut Budget) -> Result<String, String> {
        match self {
            Source::Claim { name, prefix } => {
                let value = claims.get(name).ok_or_else(|| {
                    format!("oidc: parse {what} claims {name:?}: claim not present")
                })?;
                let text = value.as_str().ok_or_else(|| {
                    format!("oidc: parse {what} claims {name:?}: it is not a string")
                })?;
                Ok(format!("{prefix}{text}"))
            }
            Source::Expression(expression) => {
                let value = expression.eval("claims", claims, budget)?;
                let text = value.as_str().map(str::to_owned);
                text.ok_or_else(|| format!("oidc: {what} claim expression must return a string"))
            }
        }
    }

    fn many(&self, what: &str, claims: &Value, budget: &mut Budget) -> Result<Vec<String>, String> {
        match self {
            Source::Claim { name, prefix } => {
                let none = Value::Null;
                let value = claims.get(name).unwrap_or(&none);
                let all = texts(value).ok_or_else(|| {
                    format!("oidc: parse {what} claim {name:?}: it is not a list of strings")
                })?;
                Ok(all.iter().map(|one| format!("{prefix}{one}")).collect())
            }
            Source::Expression(expression) => {
                let value = expression.eval("claims", claims, budget)?;
                let mut all = texts(&value).ok_or_else(|| {
                    format!("oidc: {what} claim expression must return a string or a list of them")
                })?;
                all.retain(|one| !one.is_empty());
                Ok(all)
            }
        }
    }
}

impl Expression {
    fn eval(&self, name: &str, value: &Value, budget: &mut Budget) -> Result<Value, String> {
        let bindings = Bindings::new().set(name, cel::free(value));
        let fails = |error| {
            let text = &self.text;
            format!("oidc: error evaluating expression '{text}': {error}")
        };
        let answer = self.program.eval(&bindings, budget).map_err(fails)?;
        answer.to_json().map_err(fails)
    }
}

impl Demand {
    fn check(&self, name: &str, value: &Value, budget: &mut Budget) -> Result<(), String> {
        match self {
            Demand::Equal { claim, value: want } => {
                let got = value.get(claim).ok_or_else(|| {
                    format!("oidc: required claim {claim} not present in ID token")
                })?;
                match got.as_str() {
                    Some(got) if got == want => Ok(()),
                    _ => Err(format!(
                        "oidc: required claim {claim} value does not match. Got = {got}, want = \
                         {want:?}"
                    )),
                }
            }
            Demand::True(expression, message) => match expression.eval(name, value, budget)? {
                Value::Bool(true) => Ok(()),
                _ if message.is_empty() => Err(format!(
                    "oidc: validation expression '{}' failed",
                    expression.text
                )),
                _ => Err(format!("oidc: {message}")),
            },
        }
    }
}
