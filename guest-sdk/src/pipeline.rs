//! Pipeline steps and exporters: the traits and their macros.

use serde::de::DeserializeOwned;

use crate::{
    Item, PipelineError, from_settings,
    memory::{Host, Memory},
};

/// A step of a pipeline: zero or more items out for each item in.
///
/// One instance serves one place in one pipeline; calls never overlap. A panic loses nothing: the
/// host makes a new instance and gives it the same batch again.
pub trait Step: Sized {
    /// The stage's `config`. Fields may be texts, numbers, booleans, `Option`s, unit enums and
    /// comma-separated lists (`Vec`). A name that is no field, a missing one, and a value that
    /// does not fit are errors that name it.
    type Config: DeserializeOwned;

    /// Take the configuration; check whatever can be wrong with it here.
    fn configure(config: Self::Config) -> Result<Self, PipelineError>;

    /// Process a batch in order. The result must not depend on how batches are cut.
    fn process(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError>;
}

/// A step that remembers what it has seen, and may do something when time has passed: sums, windows
/// by count and time, what changed since.
///
/// Keep what must not be lost in `memory` and nothing of it in the struct: an instance may be replaced
/// at any time, and the struct with it.
pub trait Accumulator: Sized {
    /// The stage's `config`, as of a [`Step`].
    type Config: DeserializeOwned;

    /// Take the configuration; check whatever can be wrong with it here.
    fn configure(config: Self::Config) -> Result<Self, PipelineError>;

    /// Process a batch in order.
    fn process(
        &mut self,
        batch: Vec<Item>,
        memory: &mut impl Memory,
    ) -> Result<Vec<Item>, PipelineError>;

    /// Called once after `configure`, before any batch, so that what is remembered can be looked at;
    /// then when [`Memory::wake_after`] asked for it.
    fn tick(&mut self, memory: &mut impl Memory) -> Result<Vec<Item>, PipelineError>;
}

/// The end of a pipeline.
///
/// One instance serves one place in one pipeline; calls never overlap. A batch that failed is
/// delivered again, so the destination sees each item at least once.
pub trait Exporter: Sized {
    /// The stage's `config`, as of a [`Step`].
    type Config: DeserializeOwned;

    /// Take the configuration. The destination need not be reachable yet.
    fn configure(config: Self::Config) -> Result<Self, PipelineError>;

    /// Deliver a batch in order; return when the destination has taken all of it.
    fn deliver(&mut self, batch: Vec<Item>) -> Result<(), PipelineError>;
}

/// What the export macros keep between calls.
#[doc(hidden)]
pub struct Place<T>(T);

impl<T: Step> Place<T> {
    pub fn step(settings: &[(String, String)]) -> Result<Self, PipelineError> {
        T::configure(from_settings(settings)?).map(Self)
    }

    pub fn process(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
        self.0.process(batch)
    }
}

impl<T: Exporter> Place<T> {
    pub fn exporter(settings: &[(String, String)]) -> Result<Self, PipelineError> {
        T::configure(from_settings(settings)?).map(Self)
    }

    pub fn deliver(&mut self, batch: Vec<Item>) -> Result<(), PipelineError> {
        self.0.deliver(batch)
    }
}

impl<T: Accumulator> Place<T> {
    pub fn accumulator(settings: &[(String, String)]) -> Result<Self, PipelineError> {
        T::configure(from_settings(settings)?).map(Self)
    }

    pub fn accumulate(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
        self.0.process(batch, &mut Host)
    }

    pub fn tick(&mut self) -> Result<Vec<Item>, PipelineError> {
        self.0.tick(&mut Host)
    }
}

/// Make a component of a [`Step`].
///
/// Use it once in a crate of the type `cdylib`. It does nothing on targets other than Wasm.
#[macro_export]
macro_rules! export_step {
    ($step:ty) => {
        // Also where nothing is exported, so that a native build finds what is wrong.
        const _: () = {
            const fn is_step<S: $crate::Step>() {}
            is_step::<$step>()
        };

        $crate::__export_stage!(
            $step,
            step,
            step,
            process,
            Vec<$crate::Item>,
            $crate::bindings::step
        );
    };
}

/// Make a component of an [`Accumulator`].
///
/// Use it once in a crate of the type `cdylib`. It does nothing on targets other than Wasm.
#[macro_export]
macro_rules! export_accumulator {
    ($step:ty) => {
        // Also where nothing is exported, so that a native build finds what is wrong.
        const _: () = {
            const fn is_accumulator<A: $crate::Accumulator>() {}
            is_accumulator::<$step>()
        };

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            ::std::thread_local! {
                static PLACE: ::std::cell::RefCell<Option<$crate::Place<$step>>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            fn place<T>(
                call: impl FnOnce(&mut $crate::Place<$step>) -> Result<T, $crate::PipelineError>,
            ) -> Result<T, $crate::PipelineError> {
                PLACE.with_borrow_mut(|place| match place {
                    Some(place) => call(place),
                    None => {
                        let message = "called before configure".to_owned();
                        Err($crate::PipelineError::Config(message))
                    }
                })
            }

            impl $crate::bindings::step::exports::eyot::pipeline::step::Guest for Exported {
                fn configure(settings: Vec<(String, String)>) -> Result<(), $crate::PipelineError> {
                    PLACE.set(Some($crate::Place::<$step>::accumulator(&settings)?));
                    Ok(())
                }

                fn process(
                    batch: Vec<$crate::Item>,
                ) -> Result<Vec<$crate::Item>, $crate::PipelineError> {
                    place(|place| place.accumulate(batch))
                }
            }

            impl $crate::bindings::accumulator::exports::eyot::pipeline::timer::Guest for Exported {
                fn tick() -> Result<Vec<$crate::Item>, $crate::PipelineError> {
                    place(|place| place.tick())
                }
            }

            $crate::__version_section!();
    $crate::bindings::step::export!(Exported with_types_in $crate::bindings::step);
            $crate::bindings::accumulator::export!(
                Exported with_types_in $crate::bindings::accumulator
            );
        };
    };
}

/// Make a component of an [`Exporter`].
///
/// Use it once in a crate of the type `cdylib`. It does nothing on targets other than Wasm.
#[macro_export]
macro_rules! export_exporter {
    ($exporter:ty) => {
        // Also where nothing is exported, so that a native build finds what is wrong.
        const _: () = {
            const fn is_exporter<E: $crate::Exporter>() {}
            is_exporter::<$exporter>()
        };

        $crate::__export_stage!(
            $exporter,
            exporter,
            exporter,
            deliver,
            (),
            $crate::bindings::exporter
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_stage {
    ($stage:ty, $world:ident, $make:ident, $call:ident, $answer:ty, $bindings:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            ::std::thread_local! {
                static PLACE: ::std::cell::RefCell<Option<$crate::Place<$stage>>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            impl $crate::bindings::$world::exports::eyot::pipeline::$world::Guest for Exported {
                fn configure(settings: Vec<(String, String)>) -> Result<(), $crate::PipelineError> {
                    let place = $crate::Place::<$stage>::$make(&settings)?;
                    PLACE.set(Some(place));
                    Ok(())
                }

                fn $call(batch: Vec<$crate::Item>) -> Result<$answer, $crate::PipelineError> {
                    PLACE.with_borrow_mut(|place| match place {
                        Some(place) => place.$call(batch),
                        None => {
                            let message = "called before configure".to_owned();
                            Err($crate::PipelineError::Config(message))
                        }
                    })
                }
            }

            $crate::__version_section!();
    $crate::bindings::$world::export!(Exported with_types_in $crate::bindings::$world);
        };
    };
}
