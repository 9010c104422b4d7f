//! Structured merge against its specification: one file a topic, each a list of steps.

mod appliers;
mod documented;
mod duplicates;
mod entries;
mod fixture;
mod nested;
mod properties;
mod schema_changes;
mod sets;
mod upgrade;
