"""Which things the built-in model is taught: a choice of well-known ones, kept small on purpose.

A picture must be seen some hundred times before a denoiser of this size can draw it, so what is
left out here is what buys quality for what is left in.
"""

SUBGROUPS = (
    "animal-mammal",
    "animal-bird",
    "animal-amphibian",
    "animal-reptile",
    "animal-marine",
    "animal-bug",
    "plant-flower",
    "plant-other",
    "food-fruit",
    "food-vegetable",
    "food-prepared",
    "food-sweet",
    "drink",
    "transport-water",
    "transport-air",
    "musical-instrument",
    "face-costume",
)
"""Subgroups of Unicode's emoji list that are taken whole, less `LEFT_OUT`."""


def _labels(text: str) -> frozenset[str]:
    return frozenset(" ".join(label.split()) for label in text.split(";"))


LEFT_OUT = _labels(
    """
    guide dog;service dog;pig nose;ewe;ox;water buffalo;bison;mammoth;orangutan;boar;skunk;badger;
    paw prints;two-hump camel;chipmunk;moose;front-facing baby chick;feather;wing;black bird;dodo;
    turkey;microbe;fly;worm;mosquito;cockroach;cricket;beetle;spider web;whale;blowfish;oyster;
    rosette;wilted flower;blossom;hyacinth;lotus;white flower;sheaf of rice;herb;shamrock;
    leaf fluttering in wind;fallen leaf;empty nest;olive;beans;chestnut;ginger root;pea pod;
    flatbread;tamale;stuffed flatbread;falafel;fondue;shallow pan of food;pot of food;cut of meat;
    burrito;canned food;butter;salt;shaved ice;custard;shortcake;sake;clinking glasses;mate;ice;
    pouring liquid;tumbler glass;beverage box;teacup without handle;ring buoy;motor boat;ferry;
    canoe;airplane departure;airplane arrival;seat;suspension railway;mountain cableway;
    aerial tramway;satellite;small airplane;long drum;flute;skull and crossbones;ogre;goblin
    """
)
"""Near copies of another picture, many small things in one, or seldom asked for."""

SINGLES = _labels(
    """
    locomotive;tram;bus;ambulance;fire engine;police car;taxi;automobile;sport utility vehicle;
    pickup truck;delivery truck;tractor;racing car;motorcycle;motor scooter;bicycle;skateboard;
    stop sign;vertical traffic light;grinning face;smiling face with sunglasses;nerd face;
    cowboy hat face;partying face;winking face;crying face;angry face;sleeping face;thinking face;
    smiling face with heart-eyes;red heart;orange heart;yellow heart;green heart;blue heart;
    purple heart;black heart;broken heart;soccer ball;basketball;baseball;tennis;volleyball;
    american football;trophy;game die;teddy bear;balloon;wrapped gift;jack-o-lantern;
    Christmas tree;crown;top hat;glasses;necktie;t-shirt;jeans;dress;backpack;running shoe;
    high-heeled shoe;umbrella;gem stone;bell;telephone;laptop;television;camera;light bulb;candle;
    closed book;books;envelope;pencil;paintbrush;artist palette;scissors;key;locked;hammer;axe;
    magnet;gear;microscope;telescope;chair;couch and lamp;bed;door;alarm clock;hourglass done;
    watch;money bag;coin;house;castle;tent;volcano;snow-capped mountain;desert island;
    ferris wheel;sun;crescent moon;full moon;star;cloud;rainbow;snowflake;snowman;fire;droplet;
    high voltage;ringed planet;globe showing Americas;bomb;magic wand;crystal ball;kite;bullseye;
    sushi;spaghetti;rice ball;fried shrimp;fortune cookie;steaming bowl
    """
)
"""Things taken one by one, by their Unicode label."""
