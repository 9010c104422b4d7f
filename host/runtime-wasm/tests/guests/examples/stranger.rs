//! A component that imports what no host has.

wit_bindgen::generate!({
    inline: "
        package strange:things@1.0.0;
        interface telepathy { think: func(thought: string) -> string; }
        world stranger {
            import telepathy;
            export eyot:pipeline/step@0.1.1;
        }
    ",
    path: ["../../../../wit/reading", "../../../../wit/mqtt", "../../../../wit/pipeline"],
    generate_all,
});

use exports::eyot::pipeline::step::{Error, Guest, Item, Setting};

struct Stranger;
export!(Stranger);

impl Guest for Stranger {
    fn configure(_: Vec<Setting>) -> Result<(), Error> {
        Err(Error::Config(strange::things::telepathy::think("hm")))
    }

    fn process(batch: Vec<Item>) -> Result<Vec<Item>, Error> {
        Ok(batch)
    }
}
