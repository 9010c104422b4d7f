//! The settings of a step as EdgeX's parameters: names in any case, values that are texts.

use std::collections::BTreeMap;

use eyot_sdk::PipelineError;

/// What is left of the settings; each is taken out once.
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub fn new(settings: BTreeMap<String, String>) -> Result<Self, PipelineError> {
        let mut all = BTreeMap::new();
        for (name, value) in settings {
            if all.insert(name.to_lowercase(), value).is_some() {
                return Err(wrong(&name, "is given twice"));
            }
        }
        Ok(Self(all))
    }

    /// The text without the white space around it; it may be empty, but it must be there.
    pub fn required(&mut self, name: &str) -> Result<String, PipelineError> {
        let found = self.0.remove(&name.to_lowercase());
        let text = found.ok_or_else(|| wrong(name, "is missing"))?;
        Ok(text.trim().to_owned())
    }

    /// The text, if there is any in it.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let text = self.0.remove(&name.to_lowercase())?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A truth value in any form that Go's `strconv.ParseBool` takes; false if there is none.
    pub fn flag(&mut self, name: &str) -> Result<bool, PipelineError> {
        match self.text(name).as_deref() {
            None => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(wrong(name, &format!("{other:?} is not true or false"))),
        }
    }

    /// Parts between commas, without empty ones.
    pub fn list(&mut self, name: &str) -> Result<Vec<String>, PipelineError> {
        let text = self.required(name)?;
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        Ok(parts.map(str::to_owned).collect())
    }

    /// `name:value` between commas.
    pub fn tags(&mut self, name: &str) -> Result<Vec<(String, String)>, PipelineError> {
        let pair = |part: &String| {
            let (tag, value) = part.split_once(':').unwrap_or_default();
            let (tag, value) = (tag.trim(), value.trim());
            if tag.is_empty() || value.is_empty() || value.contains(':') {
                let message = format!("{part:?} is not of the form name:value");
                return Err(wrong(name, &message));
            }
            Ok((tag.to_owned(), value.to_owned()))
        };
        self.list(name)?.iter().map(pair).collect()
    }

    /// One of a few words, in any case.
    pub fn choice<T: Copy>(&mut self, name: &str, known: &[(&str, T)]) -> Result<T, PipelineError> {
        let text = self.required(name)?;
        let found = known
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(&text));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            wrong(name, &format!("{text:?} is none of {}", words.join(", ")))
        })
    }

    /// Whatever nobody has taken is unknown.
    pub fn finish(self) -> Result<(), PipelineError> {
        match self.0.into_keys().next() {
            Some(name) => Err(wrong(&name, "is unknown to this function")),
            None => Ok(()),
        }
    }
}

/// What is wrong with a setting.
pub fn wrong(name: &str, message: &str) -> PipelineError {
    PipelineError::Config(format!("setting {name:?}: {message}"))
}
