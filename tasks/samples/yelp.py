"""Seeded generator of synthetic, Yelp-like business reviews.

Without the Hub there is no Yelp: so that ``--task yelp`` is a real fine-tuning all the same, this module writes reviews,
and whoever uses them is told that they are synthetic. A review is put together from clauses about the food, the service,
the price, the wait and so on, whose opinion is drawn given the stars: five stars still have a complaint, one star something
nice; there are concessions, negations, hearsay, comparisons with other places and neutral filler.

What it promises (measured by tests/tasks/samples/test_yelp_sample.py and bench/quality/sample.py): review i is a function
of (seed, i); stars are balanced; words per review have a median near 88 and a 90th percentile near 237, as real ones; about
half speak of a restaurant; logistic regression on a bag of words stays at or below 0.92 for the polarity; a model trained
on it alone reaches a balanced accuracy of at least 0.75 on real reviews. The figures measured stand in
bench/results/sample.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from random import Random

VERSION: int = 1

# --------------------------------------------------------------------------------------------------------------------
# Template language: "[a|b|c]" takes one alternative (they nest), "{slot}" takes one entry of that slot's word list.
# "{p}", "{m}" and "{n}" are special: a clause with a positive, middling or negative opinion on the current business.
# --------------------------------------------------------------------------------------------------------------------

WORDS: dict[str, tuple[str, ...]] = {
    "who": ("my husband", "my wife", "my boyfriend", "my girlfriend", "my sister", "my brother", "my mom", "my dad",
        "my parents", "two coworkers", "an old friend", "the kids", "my in-laws", "a group of six", "my roommate",
        "our neighbors", "my daughter", "my best friend", "my fiancé", "a client", "my cousin", "the whole family"),
    "friend": ("my sister", "my brother-in-law", "a coworker", "my neighbor", "my boss", "my best friend", "my mom",
        "my roommate", "a friend of mine", "my uncle", "the guy at my gym", "my hairdresser"),
    "when": ("last Friday", "on a Tuesday night", "on Saturday", "last weekend", "this morning", "around noon",
        "on a rainy Sunday", "last month", "in early March", "yesterday", "a few weeks ago", "on Thanksgiving weekend",
        "during the lunch rush", "late on a Thursday", "over the summer", "on Mother's Day", "just before closing",
        "on a Monday evening", "about two weeks ago", "on New Year's Eve"),
    "name": ("Maria", "Jake", "Tina", "Carlos", "Brenda", "Kevin", "Amy", "Luis", "Heather", "Sam", "Priya", "Derek",
        "Olivia", "Marcus", "Jen", "Tony", "Kim", "Rosa", "Ben", "Nadia", "Greg", "Lauren", "Ahmed", "Stacy"),
    "long": ("over an hour", "45 minutes", "close to two hours", "an hour and a half", "forty minutes", "an eternity",
        "nearly 50 minutes", "more than an hour", "thirty-five minutes", "forever"),
    "short": ("five minutes", "ten minutes", "two minutes", "less than ten minutes", "no time", "a minute or two"),
    "street": ("Maple Street", "Fifth Avenue", "the old highway", "Canal Road", "the town square", "Juniper Lane",
        "the main drag", "Harbor Street", "Ninth and Pine", "College Avenue", "Mill Road", "Sunset Boulevard"),
    "town": ("downtown", "on the north side", "out in the suburbs", "near the university", "by the airport",
        "in the old town", "close to the stadium", "off the freeway", "near my office", "in a strip mall",
        "by the harbor", "across from the park", "in our neighborhood", "near the convention center"),
    "years": ("ten years", "about three years", "six months", "as long as I can remember", "two years", "a year or so",
        "almost a decade", "five or six years"),
    "great": ("great", "great", "excellent", "fantastic", "amazing", "wonderful", "awesome", "outstanding", "superb",
        "incredible", "terrific", "perfect", "phenomenal", "lovely", "impressive", "spectacular", "solid", "top notch",
        "exceptional", "fabulous", "delightful", "first rate", "really good", "beautiful", "brilliant", "stellar"),
    "awful": ("awful", "terrible", "horrible", "disappointing", "poor", "lousy", "atrocious", "mediocre", "dreadful",
        "pathetic", "unacceptable", "abysmal", "subpar", "frustrating", "laughable", "appalling", "underwhelming",
        "really bad", "sad", "horrendous", "miserable", "below average", "embarrassing", "ridiculous", "depressing"),
    "okay": ("okay", "ok", "decent", "fine", "average", "so-so", "alright", "passable", "nothing special", "acceptable",
        "hit or miss", "unremarkable", "middle of the road", "just ok", "pretty standard", "forgettable", "fair",
        "about what you'd expect", "nothing to write home about", "run of the mill"),
    "nice": ("friendly", "friendly", "attentive", "welcoming", "warm", "polite", "helpful", "patient", "courteous",
        "sweet", "professional", "kind", "knowledgeable", "genuine", "cheerful", "gracious", "accommodating", "prompt",
        "charming", "efficient", "personable", "thoughtful", "hospitable", "super nice", "outgoing", "on the ball",
        "never pushy", "anything but snobby"),
    "rude": ("rude", "rude", "dismissive", "inattentive", "short with us", "clueless", "condescending", "indifferent",
        "unprofessional", "snippy", "careless", "visibly annoyed", "uninterested", "sarcastic", "hostile", "impatient",
        "unhelpful", "disorganized", "lazy", "arrogant", "cold", "surly", "curt", "slow", "pushy", "nasty",
        "not friendly at all", "anything but helpful", "far from welcoming"),
    "happy": ("happy", "thrilled", "delighted", "impressed", "pleased", "blown away", "pleasantly surprised",
        "satisfied", "grateful", "in heaven", "over the moon", "very content"),
    "mad": ("disappointed", "furious", "annoyed", "unhappy", "frustrated", "let down", "upset", "disgusted", "fed up",
        "irritated", "appalled", "not impressed", "disgruntled", "livid", "bummed"),
    "other": ("the {rival} across the street", "the chain next to the mall", "the one on {street}",
        "the place we used to go to", "the other one {town}", "its neighbor on {street}", "the big name in town"),
    "rival": ("newer place", "older place", "place", "fancier place", "cheaper place"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "price": ("$14", "$9", "$22", "$38", "$60", "$115", "twenty bucks", "$85", "$17", "fifty dollars", "$7", "$240"),
}

STRONG = ("very", "so", "incredibly", "absolutely", "extremely", "super", "really", "just", "beyond", "insanely",
    "truly")
GENTLE = ("pretty", "quite", "rather", "fairly", "kind of", "really", "very", "honestly")


@dataclass(frozen=True, eq=False)
class Topic:
    """What reviewers say about one aspect, as lower-case clauses without a full stop."""

    good: tuple[str, ...]
    middling: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trade:
    """A family of businesses that share topics and vocabulary."""

    words: dict[str, tuple[str, ...]]
    topics: tuple[tuple[int, Topic], ...]
    fillers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Business:
    """One kind of business: what it is called, and what is bought there (singular and plural)."""

    trade: str
    nouns: tuple[str, ...]
    one: tuple[str, ...]
    many: tuple[str, ...]


# --------------------------------------------------------------------------------------------------------------------
# Topics that every trade shares
# --------------------------------------------------------------------------------------------------------------------

SERVICE = Topic(
    good=("the {staff} was {very} [friendly|helpful|polite|sweet|kind|welcoming|professional]",
        "the service was {great}", "the staff was {nice} and {nice}", "everyone we dealt with was {nice}",
        "the {staff} [took great care of us|made us feel right at home]", "{name}, who looked after us, was {great}",
        "the {staff} answered every question [with a smile|without rushing us|patiently]",
        "the {boss} came over to [say hello|make sure we were happy|thank us for coming]",
        "the {staff} remembered [my name|us from last time|exactly what I like]", "I have never been greeted so warmly",
        "the staff [goes|went] [above and beyond|out of their way|the extra mile] for [us|their {customer}s|everyone]",
        "the service was [fast|quick|prompt|speedy] and [friendly|polite|cheerful|flawless|efficient]",
        "{name} [rocks|is a gem|is the best|was a sweetheart|deserves a raise]", "nobody tried to rush us out",
        "the {staff} [checked on us often|kept an eye on us] without [hovering|being pushy|interrupting]",
        "they fixed a small mix-up [right away|before I could even ask|with a sincere apology]",
        "they treat you like [family|an old friend|royalty|a person and not a number]",
        "the {staff} was honest about [what we did and didn't need|what was worth the money]",
        "I have no complaints about the service", "the {staff} had great [suggestions|recommendations|advice]",
        "the people who work here clearly love their jobs", "the staff was not bad at all, even with a full house",
        "the {staff} was [funny|a hoot|full of good humor] and never missed a beat"),
    middling=("the service was {okay}", "the {staff} was polite but [distracted|stretched thin|not exactly warm]",
        "the staff was neither friendly nor rude", "the {staff} did the job and not much more",
        "the {staff} seemed new and was still learning", "service was a little slow but nobody seemed bothered",
        "the {staff} was nice once we got someone's attention", "the service depends on who is working that day"),
    bad=("the {staff} was {very} [rude|dismissive|unfriendly|cold|slow|unhelpful|unprofessional]",
        "the service was {awful}", "the staff was {rude} and {rude}", "the customer service is {awful} here",
        "the {staff} [rolled her eyes|sighed loudly|shrugged|walked away] when [we asked for help|I complained]",
        "the {staff} [ignored us|forgot about us|disappeared] for {long}", "the {staff} had no idea what was going on",
        "nobody [apologized|acknowledged us|offered to help|checked on us|said a word|seemed to care]",
        "the {boss} [argued with us|made excuses|blamed us|refused to come out|couldn't have cared less]",
        "we had to ask [three times|twice|over and over] for [the simplest thing|what we needed|help]",
        "the staff was too busy [chatting|gossiping|texting|flirting|looking at their phones] to [help|notice us]",
        "the {staff} acted like [we were bothering her|we were invisible|she was doing us a favor|it was our fault]",
        "they got our order wrong [twice|and then argued about it|and shrugged it off]", "nobody wanted to help us",
        "I have never been treated so [poorly|badly|rudely]", "the staff could not have been less interested",
        "the {staff} lied to my face about [the price|the wait|what was included]",
        "we were [rushed out|hurried along|talked down to|treated like an inconvenience]",
        "{name} [has no business working with people|was the worst|needs some training|was rude from the start]",
        "the {staff} slammed [our things|the paperwork|the bill] on the counter",
        "friendly is not the word I would use for the {staff}", "the service left a lot to be desired",
        "the {staff} [brought the wrong thing|took our order and vanished|skipped our table|never came back]",
        "we had to flag somebody down for [water|the check|every little thing]",
        "I felt [unwelcome|ignored|awkward asking]",
        "the {staff} seemed [overwhelmed|confused|bored|half asleep] the entire time",
        "when I asked about it the {staff} just [shrugged|stared at me|said that's how they do it]"),
)

PRICE = Topic(
    good=("the prices are [very reasonable|more than fair|hard to beat|a steal|surprisingly low|cheap]",
        "the value is {great}", "it was worth every penny", "you get [a lot|so much] for your money",
        "they [knocked something off the bill|charged less than the estimate|gave us a discount] without being asked",
        "the bill came to {price}, which is a bargain", "it won't break the bank", "nobody can call it overpriced",
        "the price was lower than I [feared|expected]", "I was shocked at how affordable it was",
        "it isn't cheap, but [you get what you pay for|I would gladly pay it again|quality costs money]"),
    middling=("the prices are {okay}", "it costs about the same as anywhere else", "the bill was around {price}",
        "it is a little pricey for what it is", "the price is fair", "you pay mostly for the location"),
    bad=("the prices are [outrageous|insane|ridiculous|through the roof|way too high|a joke]", "I want my money back",
        "it is {very} overpriced", "it was a [total|complete|huge] waste of money", "{price} is highway robbery",
        "they [overcharged us|added a mystery fee|charged my card twice|padded the bill|tacked on extra charges]",
        "I paid {price} for [nothing|garbage|that mess|something I could do better at home]",
        "the bill came to {price}, which is robbery", "the price was nearly double what I was quoted",
        "they refused to [refund a cent|honor the coupon|take it off the bill]", "for {price} I expected so much more",
        "it is not worth [half the price|a dime|the money|what they charge]", "cheap it is not, and neither is it good",
        "they nickel and dime you for everything"),
)

WAITING = Topic(
    good=("we were [seen|helped|taken care of|looked after] within {short}", "in and out in {short}, which I love",
        "there was [no wait|hardly any wait] at all", "the line looked long but moved [fast|quickly]",
        "everything was ready [early|on time|when they said it would be]", "the wait was well worth it",
        "they got us in [right away|without an appointment|even though we were late]",
        "we never felt forgotten for a second", "it was surprisingly quick for a busy day",
        "they were running behind, but they [apologized|called ahead to tell us|made it up to us]"),
    middling=("the wait was about {short} longer than they said", "expect a wait on weekends", "the wait was {okay}",
        "it took a while, but it was a holiday", "there was a line when we arrived"),
    bad=("we waited {long} [before anyone noticed us|for nothing|and finally gave up|and nobody said sorry]",
        "it took {long} [to get anything|just to be greeted|to find somebody|to pay and leave]", "the line never moved",
        "they told us {short} and it turned into {long}", "people who came in after us were [helped|taken] first",
        "the wait was [ridiculous|endless|inexcusable|painful|absurd]", "we walked out after {long}",
        "I had a reservation and still waited {long}", "they [lost|forgot|gave away] our reservation",
        "everything moved at a snail's pace", "slow does not begin to describe it",
        "after {long} I [asked to cancel|lost my patience|just left]"),
)

CLEAN = Topic(
    good=("the place was [spotless|immaculate|sparkling clean|clean and bright|well kept]", "the remodel looks {great}",
        "the bathrooms were [spotless|surprisingly clean|cleaner than mine at home]", "everything looks brand new",
        "it smells [fresh|clean|wonderful] the moment you walk in", "the floors were so clean you could eat off them",
        "it looks like a dive but is perfectly clean inside", "they obviously take pride in keeping it tidy"),
    middling=("the place is a little [dated|worn|tired looking|cramped]", "it could use a fresh coat of paint",
        "the bathroom was clean enough", "the building shows its age"),
    bad=("the place was [filthy|dirty|disgusting|grimy|gross|a pigsty]", "everything I touched was sticky",
        "the bathroom [was disgusting|had no soap|reeked|was flooded|hadn't been cleaned in days]",
        "there was [a hair on the counter|a roach on the wall|trash on the floor|mold in the corner|dust everywhere]",
        "the whole place smelled like [mildew|bleach|a wet dog|old grease|sewage|cigarettes]",
        "the carpet was stained and the paint was peeling", "somebody should call the health department",
        "it was run down and falling apart", "I saw a bug [crawl|scurry] across the floor",
        "clean is not a word I would use here"),
)

PLACE = Topic(
    good=("the location is [perfect|super convenient|great]", "there is plenty of [free|easy] parking",
        "it is tucked away but [easy to find|worth the drive|worth the hunt]", "it is a hidden gem",
        "parking was a breeze", "I would drive [an hour|across town|two states] for this",
        "it is easy to get to by bus"),
    middling=("parking is street only", "it is a little hard to find", "the lot is small but there is a garage nearby",
        "the location is {okay}", "you have to park around back"),
    bad=("parking is [a nightmare|impossible|a joke|a disaster]", "the neighborhood felt [sketchy|unsafe|seedy]",
        "it is impossible to find and [not worth the hunt|nobody answers the phone]", "my car got towed from their lot",
        "the location is {awful}", "the drive was a waste of gas", "the entrance is around back next to the dumpsters"),
)

OWNERS = Topic(
    good=("the {boss} [really cares|runs a tight ship|is hands on|is a delight|knows the business]",
        "the {boss} [called me back personally|stood behind the work|made things right|wouldn't let us leave unhappy]",
        "you can tell the {boss} takes pride in this {place}", "the new management has turned things around",
        "the {boss} built this from nothing and it shows", "it is a real family business with heart",
        "they donated to our school raffle and never asked for thanks",
        "my one complaint was handled [perfectly|with class|in a heartbeat]"),
    middling=("the {boss} was out that day", "it changed hands recently and is still finding its feet",
        "management seems to be trying", "they have the basics down and little else"),
    bad=("the {boss} [is a crook|was a jerk|hung up on me|never called back|laughed at us|yelled at an employee]",
        "the management is [clueless|a joke|useless|the problem|incompetent]", "this place used to be good",
        "it has gone downhill since the new owners took over", "how this {place} stays in business is beyond me",
        "they clearly don't care about [repeat business|their customers|quality|their own employees]",
        "I wrote to corporate and [got nothing|never heard back|received a canned reply]", "they post fake reviews",
        "they have lost a loyal {customer}", "the {boss} promised to make it right and never did"),
)

ONLINE = Topic(
    good=("[booking|ordering] online was [easy|a breeze|painless]", "they confirmed by text and were right on time",
        "they answered the phone on the first ring", "their website is [clear|up to date|simple to use]",
        "they got my online order exactly right", "they replied to my email within an hour"),
    middling=("the website could be better", "their hours online are a little out of date",
        "you have to call, the site is useless", "they don't take cards, so bring cash"),
    bad=("the online order was [wrong|missing half of it|lost|cancelled without a word]",
        "they never [answer the phone|called me back|reply to emails]", "the booking system lost us completely",
        "the hours online are wrong and we found it closed", "they put me on hold for {long} and then hung up",
        "the website lies about [the prices|what they offer]", "I left three messages and heard nothing"),
)

COMMON = ((5, SERVICE), (3, PRICE), (3, WAITING), (2, CLEAN), (1, PLACE), (2, OWNERS), (1, ONLINE))

# --------------------------------------------------------------------------------------------------------------------
# Topics of single trades
# --------------------------------------------------------------------------------------------------------------------

FOOD = Topic(
    good=("the food was {good}", "the {one} was {good}", "the {many} were {good}", "the {one} was {good} and {good}",
        "the {many} were {good} and {good}", "the {one} [melted in my mouth|hit the spot|blew us away|stole the show]",
        "the {many} are [the best I've ever had|the best in town|reason enough to come|something to dream about]",
        "everything we tried was {good}", "everything tasted [fresh|homemade|like grandma made it|amazing]",
        "I could eat the {one} every day", "I am [still thinking|dreaming] about the {many}", "I crave their {many}",
        "the {one} never disappoints", "I licked the plate clean", "we [devoured|inhaled|fought over] the {many}",
        "the menu is [creative|varied|full of good choices|short and well thought out]", "the {sauce} was {good}",
        "the ingredients are [fresh and local|top quality|clearly fresh]", "dessert was {good}",
        "the {one} was a [real treat|pleasant surprise|flavor explosion|thing of beauty]", "the flavors were {great}",
        "they do a {great} job with [gluten free|vegan|vegetarian|kids'] options", "the chef knows what he is doing",
        "even my picky {kid} cleaned the plate", "the {one} is a must try",
        "the food was {good} and the {staff} was {nice}", "everything was {good} and the service was {great}",
        "[fresh|tasty|hot|delicious] {many}, [friendly|sweet|cheerful] {staff}, [no wait|fair prices]"),
    middling=("the food was {okay}", "the {one} was {okay}", "the {many} were {okay}", "the {sauce} was {okay}",
        "the {one} needed [a little salt|more seasoning|a bit more heat], otherwise fine", "the {one} was edible",
        "the {many} were good, the {one} not so much", "the menu is on the small side", "the flavor was there, barely",
        "the {one} was good but not great", "I liked the {one} but wouldn't order the {many} again",
        "the {many} tasted like they could come from anywhere", "I've had better, I've had worse"),
    bad=("the food was {bad}", "the {one} was {bad}", "the {many} were {bad}", "the {one} was {bad} and {bad}",
        "the {many} were {bad} and {bad}", "the {one} had no flavor [at all|whatsoever]", "we sent the {one} back",
        "the {one} tasted like [cardboard|it came from a can|it was microwaved|dish soap|the freezer|nothing]",
        "the {many} [made me sick|gave me food poisoning|sat under a heat lamp too long|were barely edible]",
        "I found a [hair|bug|piece of plastic|fly] in my {sauce}", "I couldn't [finish|even swallow|stomach] the {one}",
        "everything we tried was {bad}", "the {sauce} was {bad}", "dessert was {bad}", "the menu is [tired|boring]",
        "even the dog refused the {many}", "they were out of [everything|the {many}|half the menu]",
        "everything was [drowned in oil|swimming in grease|loaded with salt|cooked to death]", "the meat was {bad}",
        "the {one} arrived [cold|wrong|burnt|half raw] and came back [worse|the same way]", "none of us finished",
        "the {one} looked nothing like the picture", "I spent the night in the bathroom after the {many}",
        "I threw most of the {one} away", "the {one} was an insult to anyone who grew up with the real thing",
        "frozen dinners have more flavor", "I was hoping for [more|better]", "the {many} just didn't do it for me",
        "the {one} was [a letdown|not what I expected|nothing like what I remembered]",
        "the {one} lacked [flavor|seasoning|any kick|freshness|something]", "the {one} isn't worth the hype",
        "the {many} could have used [more seasoning|another five minutes|less oil]", "I can make better {one} at home",
        "I took two bites of the {one} and pushed it aside", "for a {place} known for its {many}, these were {awful}",
        "the {many} tasted [off|old|reheated|like yesterday's leftovers]",
        "the {one} was more [bun|bone|fat|breading|mush] than anything else",
        "the food was {bad} and the {staff} was {rude}", "everything was {bad} and the service was {awful}",
        "[cold|bland|greasy|stale] {many}, [rude|surly|clueless] {staff}, [{long} of waiting|silly prices]"),
)

PORTIONS = Topic(
    good=("the portions are [huge|generous|enormous|perfect]", "we had plenty left for lunch the next day",
        "I left [stuffed|full and happy|in a food coma]", "one plate easily feeds two", "the plates were piled high",
        "they never skimp on the {many}"),
    middling=("the portions are {okay}", "the portions are a bit small", "it was enough food but not a lot"),
    bad=("the portions are [tiny|laughable|stingy|pathetic|for toddlers]", "I left hungry", "they skimp on the {many}",
        "we had to [eat again at home|stop for a burger on the way home]", "I counted three bites of {one}"),
)

AMBIENCE = Topic(
    good=("the atmosphere is [cozy|romantic|relaxed|inviting|lively|charming|fun]", "the view is {great}",
        "the decor is [gorgeous|adorable|classy]", "the live music was {great}", "the vibe is {great}",
        "the patio is [beautiful|the perfect spot on a summer night|a dream]", "it was quiet enough to talk",
        "it feels like eating in somebody's home", "the fireplace made it so cozy",
        "it is perfect for [date night|families|a big group|a special occasion]",
        "they decorated our table for my birthday"),
    middling=("the decor is {okay}", "it gets loud when it's full", "the music was a little loud",
        "it is a bit dark inside", "the atmosphere is casual, nothing fancy", "the tables are close together"),
    bad=("it was so loud we had to shout", "the atmosphere is [dead|depressing|cold|sterile|chaotic]",
        "they sat us [by the toilets|next to the kitchen door|under a freezing vent|at a wobbly table]",
        "the music was [deafening|awful|giving me a headache]", "the tables were [sticky|crammed together|filthy]",
        "it was freezing inside and nobody would turn down the air", "the decor is straight out of a hospital",
        "the silverware was dirty", "flies were everywhere", "the booth was torn and my chair was broken"),
)

DRINKS = Topic(
    good=("the cocktails are [strong|creative|well made|dangerously good]", "the wine list is {great}",
        "the beer selection is {great}", "the coffee is [strong and smooth|excellent|the best around]",
        "the margaritas are {great}", "my glass was never empty", "the bartender pours a generous drink",
        "happy hour is a steal", "the iced tea was fresh and cold"),
    middling=("the drinks were {okay}", "the beer list is short", "the coffee was {okay}",
        "they only serve beer and wine"),
    bad=("the drinks were [watered down|weak|all ice|flat|too sweet]", "the bartender ignored us",
        "the coffee was [burnt|cold|like dishwater|bitter]", "there was lipstick on my glass",
        "the beer was warm and flat", "they charged {price} for a weak cocktail", "my water was never refilled"),
)

HOTEL_ROOM = Topic(
    good=("the {one} was {good}", "the {many} were {good}", "the room was {good} and {good}", "I slept like a baby",
        "the bed was [like a cloud|so comfortable|heavenly]", "the view from our window was {great}",
        "the shower was hot with great pressure", "they upgraded us for free", "check in took {short}",
        "the breakfast was [fresh|generous|delicious|better than expected]", "the pool was [warm|clean|gorgeous]",
        "it was peaceful and quiet at night", "housekeeping did a {great} job", "it felt like a home away from home"),
    middling=("the {one} was {okay}", "the {many} were {okay}", "the room was small but clean",
        "the breakfast was {okay}", "the pool was closed while we were there", "it is fine for one night",
        "the furniture has seen better days"),
    bad=("the {one} was {bad}", "the {many} were {bad}", "the room was {bad} and {bad}", "I didn't sleep a wink",
        "the bed was [hard as a rock|lumpy|broken|stained]", "we found [bed bugs|hair in the tub|mold in the shower]",
        "the walls are paper thin", "the air conditioner [rattled all night|was broken|leaked on the floor]",
        "the key card stopped working [twice|every day]", "they gave our room away", "there was no hot water",
        "the breakfast was [stale|gone by eight|inedible]", "housekeeping never came", "we checked out a day early",
        "the pictures online are a lie", "the elevator was out the whole time"),
)

BEAUTY = Topic(
    good=("my {one} turned out {good}", "my {one} looks {good}", "the {many} look {good}", "I got so many compliments",
        "{name} listened to exactly what I wanted", "my nails lasted three weeks", "my hair has never looked better",
        "I walked out feeling like a new woman", "the massage was [relaxing|heavenly|the best I've had]",
        "she fixed what another salon ruined", "I finally found my stylist", "they are gentle and take their time",
        "I almost fell asleep in the chair"),
    middling=("my {one} turned out {okay}", "the {many} are {okay}", "the color is close to what I asked for",
        "it was a little uneven but I fixed it at home", "she did a fair job on the sides"),
    bad=("my {one} turned out {bad}", "my {one} looks {bad}", "the {many} look {bad}", "she ruined my hair",
        "I cried when I got home", "I had to pay somebody else to fix it", "my nails chipped the next day",
        "they cut my finger and it got infected", "she burned my scalp", "I asked for a trim and lost four inches",
        "she was on her phone the whole time", "the tools did not look sterilized", "I wore a hat for a month"),
)

REPAIR = Topic(
    good=("the {one} was {good}", "the {many} were {good}", "my car runs like new", "they finished a day early",
        "they fixed it right the first time", "they showed me the worn part instead of just charging me",
        "they told me I didn't need the {one}", "the quote was [honest|accurate|lower than the dealer's]",
        "I finally found a mechanic I trust", "they even washed the car", "they explained everything in plain English",
        "the crew was careful with [our things|the furniture|my floors]", "they cleaned up after themselves"),
    middling=("the {one} was {okay}", "the {many} were {okay}", "they fixed most of it",
        "the work was fine, if a little slow", "I had to go back once for an adjustment",
        "the waiting room has old magazines and weak coffee"),
    bad=("the {one} was {bad}", "the {many} were {bad}", "the same problem came back the next day",
        "they broke something that worked before", "they tried to sell me [repairs|parts|a service] I didn't need",
        "the final bill was twice the quote", "there was a fresh scratch on my door", "they kept my car for two weeks",
        "the dealer said the work was never done", "they never showed up", "they left a mess behind",
        "I was stranded on the highway an hour later", "they take advantage of people who don't know cars",
        "they dented the door and denied it"),
)

HEALTH = Topic(
    good=("the {one} was {good}", "the {many} were {good}", "the doctor listened and [took me seriously|never rushed]",
        "I felt no pain at all", "they explained every step", "they squeezed me in the same day",
        "my kids love coming here", "they caught something two other doctors missed",
        "I feel better than I have in years", "the nurse was gentle and reassuring",
        "they sorted out the insurance for me", "he has a wonderful bedside manner"),
    middling=("the {one} was {okay}", "the {many} were {okay}", "the doctor is good, the front desk not so much",
        "the visit was short but fine", "I am still waiting to see if it worked"),
    bad=("the {one} was {bad}", "the {many} were {bad}", "the doctor spent three minutes with me",
        "they misdiagnosed me", "they billed my insurance for things that never happened",
        "I left in more pain than before", "they lost my [records|test results|paperwork]",
        "the doctor never looked up from the screen", "they pushed treatments I didn't need",
        "they cancelled my appointment at the last minute", "nobody called me with the results",
        "he made me feel stupid for asking"),
)

GYM = Topic(
    good=("the {one} was {good}", "the {many} were {good}", "the trainers [push you just enough|know their stuff]",
        "I lost twenty pounds here", "the equipment is [new|well maintained|always available]", "nobody judges you",
        "it is never too crowded", "the locker rooms are spotless", "I actually look forward to working out",
        "the instructor motivates everyone", "joining took {short} with no pressure"),
    middling=("the {one} was {okay}", "the {many} were {okay}", "it gets packed after work", "it has the basics",
        "some machines are newer than others", "the music is loud but you get used to it"),
    bad=("the {one} was {bad}", "the {many} were {bad}", "half the machines are broken", "it is always overcrowded",
        "they kept charging me after I cancelled", "the contract is impossible to get out of", "the showers are moldy",
        "the trainer looked at his phone the whole session", "the sales pitch was relentless",
        "the instructor mocked a beginner", "nobody wipes anything down", "my locker was broken into"),
)

SHOP = Topic(
    good=("the {one} was {good}", "the {many} were {good}", "the selection is [huge|fantastic|the best in town]",
        "I found exactly what I was looking for", "they have things you can't find anywhere else",
        "I could spend hours browsing", "returns were painless", "they helped me carry it to the car",
        "I always find a treasure", "the shelves are neat and well stocked", "the quality is {great}",
        "they let me try everything without pressure"),
    middling=("the {one} was {okay}", "the {many} were {okay}", "the selection is {okay}", "it is a bit disorganized",
        "they didn't have my size but offered to order it", "you have to dig to find the good stuff"),
    bad=("the {one} was {bad}", "the {many} were {bad}", "the selection is [pitiful|picked over|the same old junk]",
        "it broke after one week", "they wouldn't take it back even with the receipt", "the shelves were half empty",
        "security followed me around the store", "they sold me a used one as new", "the quality is {awful}",
        "only one register was open", "the price at the register was not the price on the tag",
        "they delivered the wrong thing and blamed me"),
)

# --------------------------------------------------------------------------------------------------------------------
# Trades and businesses
# --------------------------------------------------------------------------------------------------------------------

TRADES: dict[str, Trade] = {
    "food": Trade(
        words={
            "staff": ("waitress", "server", "waiter", "hostess", "bartender", "cashier", "girl at the counter"),
            "boss": ("owner", "manager", "chef", "owner's wife"),
            "customer": ("customer", "guest", "regular", "diner"),
            "visit": ("meal", "dinner", "lunch", "brunch", "evening"),
            "errand": ("grab dinner", "try the {many}", "have a quick lunch", "celebrate a birthday", "meet {friend}",
                "watch the game over {many}", "pick up takeout", "get out of the heat", "use a gift card"),
            "sauce": ("sauce", "salad", "soup", "gravy", "dressing", "rice", "side dish", "bread"),
            "kid": ("toddler", "son", "daughter", "nephew", "grandson"),
            "good": ("delicious", "delicious", "fresh", "flavorful", "juicy", "tender", "crispy", "perfectly seasoned",
                "cooked to perfection", "to die for", "out of this world", "mouthwatering", "yummy", "rich", "savory",
                "succulent", "addictive", "hot and fresh", "spot on", "authentic", "heavenly", "divine", "phenomenal",
                "not bad at all", "far from bland", "anything but dry", "tasty", "super tasty", "amazing", "great",
                "excellent", "fantastic", "so good", "perfect", "wonderful", "light and fluffy", "incredible"),
            "bad": ("bland", "dry", "overcooked", "undercooked", "greasy", "soggy", "cold", "lukewarm", "stale", "oily",
                "tasteless", "burnt", "rubbery", "salty beyond belief", "mushy", "flavorless", "chewy", "inedible",
                "raw in the middle", "disgusting", "gross", "freezer burned", "tough as leather", "watery", "terrible",
                "barely warm", "not fresh", "far from fresh", "nothing like the picture", "rancid", "under-seasoned",
                "way too salty", "awful", "horrible", "nasty", "disappointing", "not good", "way too sweet", "slimy"),
        },
        topics=((9, FOOD), (2, PORTIONS), (3, AMBIENCE), (2, DRINKS), *COMMON),
        fillers=("We [started with|split|shared] the {many} and I had the {one}.", "They also have a small kids' menu.",
            "I ordered the {one} and {who} got the {many}.", "We sat [outside|at the bar|in a booth|by the window].",
            "They serve breakfast until eleven and dinner until ten.", "We had a party of [five|six|eight|ten].",
            "The menu is written on a chalkboard by the door.", "It was about half full when we sat down.",
            "You order at the counter and they bring it to your table.", "{name} had the soup and a salad.",
            "The {many} come with {sauce} and a choice of two sides.", "There are maybe a dozen tables and a long bar.",
            "I asked for the dressing on the side and no onions.", "The special that day was the {one}.",
            "The waiter brought water and menus and told us about the specials.", "We took the rest home in a box.",
            "There are TVs over the bar and a jukebox in the corner.", "I usually judge a {place} by its {one}."),
    ),
    "hotel": Trade(
        words={
            "staff": ("front desk clerk", "concierge", "bellman", "receptionist", "housekeeper", "night manager"),
            "boss": ("manager", "general manager", "owner"), "customer": ("guest", "traveler"),
            "visit": ("stay", "weekend", "trip", "night"),
            "errand": ("spend two nights", "attend a wedding", "break up a long drive", "get away for our anniversary",
                "go to a conference", "catch an early flight"),
            "good": ("comfortable", "spotless", "spacious", "quiet", "luxurious", "modern", "cozy", "clean", "charming",
                "beautiful", "better than the photos", "bright and airy", "immaculate", "far from basic", "great"),
            "bad": ("dirty", "noisy", "tiny", "musty", "outdated", "stained", "run down", "smelly", "broken", "damp",
                "uncomfortable", "nothing like the photos", "disgusting", "dark and gloomy", "far from clean", "filthy",
            ),
        },
        topics=((9, HOTEL_ROOM), *COMMON),
        fillers=("Our room was on the third floor facing the courtyard.", "We had two queen beds and a small fridge.",
            "Check in starts at three and check out is at eleven.", "The lobby has a gift shop and an ice machine.",
            "There is a shuttle to the airport every half hour.", "Breakfast is served from six thirty to ten.",
            "We ate at [the|a] restaurant around the corner the first night.", "They put a hold of {price} on my card.",
            "We were [here|in town] for a [wedding|conference|tournament].",
            "There were two other families checking in with us."),
    ),
    "beauty": Trade(
        words={
            "staff": ("stylist", "receptionist", "nail tech", "barber", "esthetician", "girl at the desk"),
            "boss": ("owner", "manager", "head stylist"), "customer": ("client", "customer"),
            "visit": ("appointment", "visit", "session", "afternoon"),
            "errand": ("get my hair done", "get ready for a wedding", "fix my roots", "treat myself", "use a gift card",
            ),
            "good": ("gorgeous", "perfect", "beautiful", "exactly like the picture", "even and shiny", "flawless",
                "amazing", "better than I hoped", "natural", "so pretty", "fresh", "stunning", "anything but boring",
                "great"),
            "bad": ("uneven", "patchy", "orange", "choppy", "crooked", "fried", "awful", "lopsided", "horrible",
                "nothing like the picture", "dry and brittle", "terrible", "sloppy", "botched", "far from even",
                "way too short"),
        },
        topics=((9, BEAUTY), *COMMON),
        fillers=("I have [long thick|short curly|fine] hair and usually get it cut every two months.",
            "I brought a photo along.", "They take walk-ins and appointments.", "I picked a light pink for the summer.",
            "There are six chairs and a row of dryers along the wall.", "I booked the earliest slot on a {day}.",
            "She asked about my job and my kids while she worked.", "They offer tea and water while you wait.",
            "The salon is next to [a restaurant|a dry cleaner|a bank].",
            "I had moved here in the spring and needed somewhere new."),
    ),
    "repair": Trade(
        words={
            "staff": ("mechanic", "technician", "service advisor", "driver", "guy at the desk", "installer"),
            "boss": ("owner", "shop manager", "foreman"), "customer": ("customer", "homeowner"),
            "visit": ("visit", "job", "appointment", "experience"),
            "errand": ("get the brakes checked", "have a quote done", "fix a leak", "replace two tires",
                "pass inspection"),
            "good": ("done right", "quick", "flawless", "professional", "solid", "thorough", "fair and honest", "great",
                "perfect", "done the same day", "better than new", "careful and precise", "reliable",
                "anything but sloppy"),
            "bad": ("sloppy", "botched", "half done", "shoddy", "a scam", "useless", "careless", "never finished",
                "wrong", "a disaster", "amateur hour", "far from professional", "terrible", "dishonest", "defective"),
        },
        topics=((9, REPAIR), *COMMON),
        fillers=("I drive a twelve year old sedan with a lot of miles on it.", "The check engine light came on {when}.",
            "I dropped it off at eight and walked to work.", "They open at seven thirty and close at five.",
            "The part had to be ordered from out of state.", "I got three quotes, one of them from these guys.",
            "I sat in a diner next door while they looked at it.", "Two guys came in a white van.",
            "The house was built in the sixties and has the original pipes.", "The invoice listed parts and labor."),
    ),
    "health": Trade(
        words={
            "staff": ("receptionist", "nurse", "hygienist", "assistant", "front desk lady", "technician"),
            "boss": ("doctor", "office manager", "dentist"), "customer": ("patient", "family"),
            "visit": ("appointment", "visit", "checkup", "procedure"),
            "errand": ("have a tooth looked at", "get a checkup", "bring in my cat", "see somebody about my back",
                "get new glasses"),
            "good": ("painless", "thorough", "gentle", "quick and easy", "reassuring", "professional", "excellent",
                "modern", "better than I feared", "explained well", "careful", "great", "anything but scary",
                "comfortable"),
            "bad": ("painful", "rushed", "botched", "a waste of time", "cold and impersonal", "overpriced", "careless",
                "awful", "a nightmare", "far from gentle", "traumatic", "wrong", "unsanitary", "terrible", "stressful"),
        },
        topics=((9, HEALTH), *COMMON),
        fillers=("I filled in two pages of forms.", "My insurance changed at the start of the year.",
            "The office is on the second floor above a pharmacy.", "I hadn't been to a dentist in {years}.",
            "They took an x-ray and asked me to wait outside.", "My appointment was at nine on a {day}.",
            "I was referred by my regular doctor.", "There was one other patient in the waiting room."),
    ),
    "gym": Trade(
        words={
            "staff": ("trainer", "instructor", "front desk guy", "coach", "membership rep"),
            "boss": ("owner", "manager", "head coach"), "customer": ("member", "beginner"),
            "visit": ("workout", "class", "session", "visit"),
            "errand": ("get back in shape", "try a yoga class", "swim laps", "use a guest pass"),
            "good": ("motivating", "fun", "challenging", "clean", "well run", "top of the line", "great", "inspiring",
                "worth getting up early for", "energizing", "anything but dull", "amazing", "excellent"),
            "bad": ("broken", "overcrowded", "boring", "dirty", "poorly run", "falling apart", "a joke", "smelly",
                "terrible", "cancelled every other week", "far from clean", "chaotic", "a rip off", "unsafe"),
        },
        topics=((9, GYM), *COMMON),
        fillers=("I go three mornings a week before work.", "They have two floors, weights below and cardio above.",
            "Classes start on the hour.", "I signed up in January like everyone else.", "The monthly fee is {price}.",
            "There is a juice bar by the entrance.", "I usually do half an hour on the bike and then weights."),
    ),
    "shop": Trade(
        words={
            "staff": ("salesman", "cashier", "sales lady", "clerk", "associate", "kid at the register"),
            "boss": ("owner", "store manager", "manager"), "customer": ("customer", "shopper"),
            "visit": ("trip", "visit", "purchase", "shopping trip"),
            "errand": ("buy a gift", "replace my old phone", "look for a couch", "return a jacket", "browse"),
            "good": ("well made", "beautiful", "great quality", "unique", "a bargain", "in perfect condition", "fresh",
                "adorable", "fairly priced", "exactly as described", "high quality", "anything but ordinary", "lovely"),
            "bad": ("cheaply made", "broken", "defective", "overpriced junk", "picked over", "expired", "scratched",
                "useless", "not as described", "falling apart", "far from new", "ugly", "damaged", "poor quality",
                "dusty"),
        },
        topics=((9, SHOP), *COMMON),
        fillers=("I was looking for a present for {who}.", "It is a small store with one long aisle.",
            "They open at ten and close at six, later on Thursdays.", "I went after lunch at the restaurant next door.",
            "I paid with a card and got the receipt by email.", "They carry clothes, shoes and some furniture.",
            "There were three other shoppers in the store.", "I had called ahead to ask if it was in stock."),
    ),
}

_EATERY = ("restaurant", "restaurant", "place", "spot", "joint")

BUSINESSES: tuple[Business, ...] = (
    Business("food", (*_EATERY, "taqueria"), ("burrito", "guacamole", "salsa", "carne asada", "mole", "quesadilla"),
             ("tacos", "enchiladas", "nachos", "tamales", "fajitas", "beans", "chips")),
    Business("food", (*_EATERY, "trattoria"), ("lasagna", "carbonara", "risotto", "tiramisu", "eggplant parm",
             "bruschetta"), ("meatballs", "ravioli", "gnocchi", "garlic knots", "stuffed shells", "mussels")),
    Business("food", (*_EATERY, "pizzeria"), ("pizza", "crust", "calzone", "white pie", "deep dish", "antipasto salad"),
             ("slices", "wings", "breadsticks", "toppings", "subs")),
    Business("food", (*_EATERY, "takeout place"), ("fried rice", "orange chicken", "hot and sour soup", "mapo tofu",
             "lo mein"), ("dumplings", "egg rolls", "noodles", "spare ribs", "green beans", "potstickers")),
    Business("food", (*_EATERY, "sushi bar"), ("sashimi", "tuna roll", "miso soup", "ramen", "tempura", "bento box"),
             ("rolls", "gyoza", "hand rolls", "scallops", "edamame", "udon noodles")),
    Business("food", _EATERY, ("pad thai", "green curry", "tom yum", "papaya salad", "pho", "banh mi",
             "mango sticky rice"), ("spring rolls", "satay skewers", "drunken noodles", "summer rolls",
             "rice noodles")),
    Business("food", (*_EATERY, "buffet"), ("butter chicken", "naan", "biryani", "lamb vindaloo", "tikka masala",
             "dal"), ("samosas", "pakoras", "curries", "chutneys", "lentils")),
    Business("food", (*_EATERY, "diner", "grill"), ("burger", "club sandwich", "patty melt", "meatloaf", "milkshake",
             "chili"), ("fries", "onion rings", "wings", "sliders", "mozzarella sticks", "sweet potato fries")),
    Business("food", (*_EATERY, "barbecue shack"), ("brisket", "pulled pork", "mac and cheese", "cornbread", "slaw"),
             ("ribs", "baked beans", "hush puppies", "burnt ends", "collard greens")),
    Business("food", (*_EATERY, "steakhouse"), ("ribeye", "filet", "prime rib", "lobster", "crab cake", "clam chowder"),
             ("oysters", "mashed potatoes", "shrimp", "steaks", "brussels sprouts", "crab legs")),
    Business("food", (*_EATERY, "breakfast place"), ("omelet", "french toast", "eggs benedict", "hash", "quiche",
             "bacon"), ("pancakes", "waffles", "hash browns", "grits", "biscuits", "scrambled eggs", "crepes")),
    Business("food", (*_EATERY, "deli"), ("gyro", "falafel", "hummus", "shawarma", "pastrami sandwich", "lentil soup"),
             ("kebabs", "pitas", "pickles", "stuffed grape leaves", "olives", "sandwiches")),
    Business("food", ("cafe", "coffee shop", "bakery", "place", "restaurant"), ("latte", "croissant", "espresso",
             "carrot cake", "chocolate cake", "cheesecake", "cold brew"), ("muffins", "scones", "pastries", "cookies",
             "bagels", "cupcakes")),
    Business("food", ("bar", "pub", "sports bar", "brewery", "place", "restaurant"), ("house ale", "fish and chips",
             "pot pie", "pretzel", "old fashioned", "bar burger"), ("wings", "nachos", "cocktails", "tater tots",
             "loaded fries", "beers")),
    Business("food", (*_EATERY, "bistro", "wine bar"), ("duck", "salmon", "scallop dish", "beet salad", "tasting menu",
             "pork belly", "creme brulee"), ("small plates", "appetizers", "truffle fries", "desserts", "cheeses")),
    Business("hotel", ("hotel", "hotel", "resort", "motel", "inn"), ("room", "bathroom", "bed", "lobby", "suite",
             "pool area"), ("pillows", "hallways", "towels", "rooms", "sheets", "elevators")),
    Business("beauty", ("salon", "nail salon", "spa", "barbershop"), ("haircut", "color", "manicure", "pedicure",
             "blowout", "balayage", "gel set"), ("highlights", "layers", "nails", "brows", "lashes", "bangs")),
    Business("repair", ("shop", "garage", "dealership", "body shop"), ("oil change", "brake job", "repair", "alignment",
             "paint job", "inspection"), ("repairs", "estimates", "brakes", "tires", "parts")),
    Business("repair", ("company", "outfit", "business"), ("installation", "plumbing job", "move", "carpet cleaning",
             "paint job"), ("repairs", "estimates", "movers", "plumbers", "cleaners")),
    Business("health", ("office", "clinic", "practice", "dental office"), ("cleaning", "exam", "filling", "treatment",
             "root canal", "physical therapy"), ("exam rooms", "treatments", "fillings", "procedures", "checkups")),
    Business("gym", ("gym", "studio", "fitness center"), ("class", "spin class", "weight room", "pool", "sauna",
             "equipment"), ("classes", "machines", "showers", "treadmills", "locker rooms", "sessions")),
    Business("shop", ("store", "shop", "boutique", "market"), ("couch", "dress", "phone", "bouquet", "mattress", "bike",
             "produce"), ("shoes", "clothes", "books", "gifts", "plants", "toys", "groceries")),
)

# --------------------------------------------------------------------------------------------------------------------
# Sentence frames. In the turning frames the wording alone does not give the sentiment away, the logic does.
# --------------------------------------------------------------------------------------------------------------------

PLAIN_FRAMES = (
    *("{c}",) * 22, *("{c}, and {d}", "{c} and {d}") * 3, "{c}, plus {d}", "{c}, and also {d}", "not only that, {c}",
    "honestly, {c}", "I have to say {c}", "on top of that, {c}", "once again {c}", "in my opinion {c}",
    "as usual, {c}", "{friend} put it best: {c}", "also, {c}", "what stood out: {c}", "I'll be honest, {c}",
    "and {c}", "we all agreed that {c}", "seriously, {c}", "again, {c}",
)
# Swapping {x} (the side that wins) and {y} (the side that loses) turns praise into complaint.
TURN_FRAMES = ("{y}, but {x}", "{y}, but {x}", "{y}, however {x}", "sure, {y}, but {x}", "even though {y}, {x}",
    "although {y}, {x}", "{x}, even if {y}", "{x}, although {y}", "yes, {y}, yet {x}", "while {y}, {x}")
PORTABLE_TURN_FRAMES = ("people keep saying that {y}, which was not our experience at all", "I can't agree that {y}",
    "at {other} {y}, and here it is the exact opposite", "unlike at {other}, where {y}, here {x}",
    "I had read that {y}, and none of it was true on our visit", "on our first visit {y}, but this time {x}",
    "{friend} insists that {y}, and I couldn't disagree more", "I went in expecting that {y}, and I was wrong",
    "the reviews said {y}, but what we saw was that {x}", "nobody can tell me that {y}",
    "I had been told {y}, but no, {x}", "a year ago I would have told you that {y}, but now {x}",
    "{friend} went the week before and found that {y}, but for us {x}")
MIXED_FRAMES = ("{m}", "{m}", "{m}", "{m}", "{m} and {m}", "{p}, but then {n}", "{n}, but at least {p}", "{m}, but {p}",
    "{p} while {n}", "{m}, and {n}")

OPENERS: dict[str, tuple[str, ...]] = {
    "plain": ("{who} and I came here {when} to {errand}.", "We stopped by {when}.", "I came here to {errand} {when}.",
        "This {place} is {town}.", "Stopped in {when} with {who}.", "I had driven past this {place} for {years}.",
        "A little {place} on {street}.", "{friend} told me about this {place}.", "We went {when}, around seven.",
        "My [first|second|third] visit was {when}.", "We live {short} away and had never been here until {when}.",
        "I was in town for work and needed to {errand}.", "I have been coming to this {place} for {years}.",
        "We found this {place} by accident while walking on {street}.", "So I finally tried this {place} with {who}.",
        "It was {name}'s birthday, so we chose this {place}.", "Let me start with a bit of background.",
        "I had a coupon for this {place}, so I went {when}.", "I don't usually write reviews, but here we go.",
        "After reading about this {place} for weeks, we went {when}.", "This is my review after two visits.",
        "This is about the {place} {town}, not the one on {street}.",
        "I was looking for somewhere to {errand}, and {friend} suggested this {place}."),
    "good": ("I [love|adore] this {place}!", "What a {great} {place}!", "This {place} is {great}.", "Wow, just wow.",
        "{great} {place} {town}.", "Best {place} in [town|the area|the city], hands down.", "A true gem {town}.",
        "I am {very} {happy} with this {place}.", "Where do I even begin? Everything was {great}.",
        "This is my favorite {place}.", "{great} {visit}, {great} service.", "We were {happy} with our {visit}.",
        "If I could give more than five stars I would.", "I can't say enough good things about this {place}.",
        "Do yourself a favor and go here.", "I had low expectations and this {place} blew them away.",
        "I wasn't sure about this {place}, but I'm a believer now.", "So glad we found this {place}.",
        "Don't listen to the complainers, this {place} is {great}.", "Love love love it here.",
        "I almost skipped this {place} because of the bad reviews, and that would have been a mistake.",
        "I rarely give five stars, but they earned it."),
    "fair": ("I like this {place}.", "Nice little {place} {town}.", "A {great} find, with a few rough edges.",
        "Good {visit} overall.", "I'm a fan.", "We enjoyed our {visit} here.", "Really good, just short of perfect.",
        "Not perfect, but close.", "This {place} has grown on me.", "Better than I expected.", "Solid {place} {town}.",
        "Pretty happy with this {place}, all in all.", "I wouldn't call it fancy, but I like it.",
        "You could do a lot worse than this {place}."),
    "mixed": ("This {place} is {okay}.", "I'm torn about this {place}.", "Our {visit} was {okay}.", "A mixed bag.",
        "I don't get the hype.", "Some good, some bad.", "Not great, not terrible.", "I wanted to love this {place}.",
        "It was {okay}, I suppose.", "Meh.", "Everyone raves about this {place}, and I'm on the fence.", "It's fine.",
        "Three stars is about right.", "This {place} has potential."),
    "poor": ("I really wanted to love this {place}.", "Not impressed with this {place}.", "I expected more.",
        "Disappointing {visit}.", "What happened to this {place}?", "Our {visit} was a letdown.", "Overrated.",
        "It used to be my favorite {place}.", "I wish I could say something nicer.", "Underwhelming.",
        "I've given this {place} several chances.", "Two stars, and one of them is for the [parking|view|location].",
        "I don't understand all the great reviews.", "I had high hopes for this {place}.", "Not the best {visit}.",
        "Not {awful}, but I won't be rushing back."),
    "bad": ("[Avoid|Stay away from] this {place}!", "Worst {place} [ever|in town|I've been to in {years}].",
        "Do NOT come here.", "What an {awful} {place}.", "This {place} is {awful}.", "Horrible, just horrible.",
        "{awful} {place}, {awful} service.", "I am {very} {mad} with this {place}.", "Zero stars if I could.",
        "Where do I even begin? Everything was {awful}.", "We were {mad} after our {visit}.", "Don't waste your time.",
        "Save your money and [go somewhere else|stay home].", "I can't believe this {place} has good reviews.",
        "One star is one too many.", "I wouldn't send my worst enemy here.", "Run, don't walk, away.", "Never again.",
        "I had heard {great} things about this {place}, and what a letdown.", "Total rip off.", "Terrible {visit}.",
        "I used to recommend this {place} to everyone, and I'm ashamed of that now."),
}

CLOSERS: dict[str, tuple[str, ...]] = {
    "good": ("[Highly recommend|Highly recommended|Two thumbs up|Five stars]!", "Go, you won't regret it.", "A must.",
        "We will [definitely|certainly|for sure] be back!", "I can't wait to [come back|go again|try the rest]!",
        "Thank you, {name}!", "I've already told all my friends.", "You know where to find me next {day}.",
        "This {place} has a {customer} for life.", "I wouldn't change a thing.", "Keep up the {great} work!",
        "We've already booked the next {visit}.", "I wish I lived closer.", "What luck to have found it.",
        "No shame in coming twice a week.", "I believe the hype now.", "I hope they never close.",
        "I don't want to share this {place}, but it deserves it.", "Don't hesitate, just go.", "Will be my new go to.",
        "Why would you go anywhere else?", "Perfect from start to finish.", "I have no complaints whatsoever.",
        "If you don't like it here, I can't help you.", "Best {visit} in a long time."),
    "fair": ("We'll be back.", "I'd go again.", "Worth a visit.", "I would recommend it.", "Overall a good experience.",
        "Four stars, one off for the [noise|wait].", "I'll give it another go for the {many} alone.", "Not bad at all.",
        "Definitely worth a try.", "There are worse ways to spend a {day}.", "I'll be back to try the {one}.",
        "Looking forward to the next {visit}.", "With a little polish this would be five stars.",
        "We won't be disappointed to come back.", "Recommended, and not overrated.", "I'm glad we gave it a chance."),
    "mixed": ("I might give it another try.", "I'd go back if someone else was paying.", "Three stars seems fair.",
        "Take it or leave it.", "I'm not sure I'd return, but I'm not sure I wouldn't.", "Maybe it was an off day.",
        "It's okay if you're in the area.", "I wouldn't go out of my way.", "Average, really.", "Nothing special.",
        "Your mileage may vary."),
    "poor": ("I won't be rushing back.", "There are better options nearby.", "Probably won't return.", "What a shame.",
        "I wish them luck, but no thanks.", "We'll go somewhere else next time.", "I expected better.",
        "Two stars is generous.", "I've had worse, but not recently.", "I can't recommend it.", "Once was enough.",
        "Maybe others have better luck.", "So disappointed.", "The rough edges need a lot of polish.",
        "So overrated.", "It had its chance.", "It could be great, and that's the sad part."),
    "bad": ("[Never again|Never coming back|I will never go back]!", "Save your money.", "That was our last visit.",
        "Do yourself a favor and go anywhere else.", "I want those two hours of my life back.", "You've been warned.",
        "I wouldn't [recommend it to anyone|go back if it were free|send a dog here].", "We drove home in silence.",
        "I've already told all my friends to stay away.", "I hope they close.", "Shame on them.", "We won't be back.",
        "If I could give zero stars I would.", "I'll stick with {other}.", "Avoid at all costs.", "Worst {visit} ever.",
        "What a [joke|waste|disgrace].", "I have nothing good to say.", "I disputed the charge.",
        "If you enjoy being ignored, this is the {place} for you.", "Thanks for nothing, {name}!",
        "Certainly not worth a second {visit}.", "I will be telling everyone.", "I'm glad I don't live closer.",
        "Nothing says welcome like {long} of silence.", "Lost my business for good."),
}

# Endings that leave the verdict to the reader.
SIGN_OFFS = ("That's my two cents.", "Thanks for reading.", "Make of that what you will.", "Enough said.",
    "That's all I can say.", "I told {friend} all about it.", "Now you know.", "{who} can confirm every word.",
    "We talked about it all the way home.", "I've written this to help others decide.", "Ask {friend}, who was there.",
    "It tells you everything you need to know.", "I don't think I'll forget it soon.", "I'm curious what others think.",
    "And that was our {visit}.")

# Outbursts and stories that stand alone.
ASIDES: dict[str, tuple[str, ...]] = {
    "good": ("[Yum|Wow|Loved it|So good|Incredible]!", "I was {very} {happy}.", "We couldn't stop smiling.",
        "What more could you want?", "I was prepared for the worst and got the best.", "They get it right every time.",
        "I can't find anything to complain about.", "I don't say this often, but it was {great}.", "Simply {great}.",
        "{who} is hard to please and was {happy}.", "Not a single bad thing to report.", "It made our whole week.",
        "I've been to {other} and it doesn't come close to this.", "I wouldn't dream of calling it {awful}.",
        "The reviews warned us about {awful} service; what we got was {great}.", "It gets better every time.",
        "Compared with {other}, which was {awful}, this is a different world.",
        "If this is what {awful} looks like to some people, I'd love to see where they usually go."),
    "middling": ("Nothing stood out.", "It was {okay}.", "I've had better and I've had worse.",
        "I can see why some people like it.", "Neither {great} nor {awful}.", "I'm being generous, or maybe not.",
        "Not as {great} as people say, not as {awful} either."),
    "bad": ("[Gross|Yuck|Ugh|Unbelievable|Seriously]!", "I was {very} {mad}.", "We just looked at each other.",
        "What a mess.", "I was prepared for the best and got the worst.", "I can't find anything to praise.",
        "They get it wrong every time.", "I don't say this often, but it was {awful}.", "Simply {awful}.",
        "{who} is easy to please and was {mad}.", "Not a single good thing to report.", "It ruined our whole evening.",
        "I've been to {other} and this doesn't come close to it.", "I wouldn't dream of calling it {great}.",
        "The reviews promised {great} service; what we got was {awful}.", "It gets worse every time.",
        "Compared with {other}, which was {great}, this is a different world.", "Bravo, that takes talent.",
        "If this is what {great} looks like to some people, I'd hate to see where they usually go.",
        "Oh, how lovely, another {long} of staring at the wall."),
}

SHORT: dict[str, tuple[str, ...]] = {
    "good": ("{great} {place}, {great} service!", "Love this {place} {town}.", "Best {many} in town, hands down!",
        "{great} {one} and {nice} staff.", "My favorite {place}. {many} are {good}.", "The {many} are {good}. Go!",
        "Not once disappointed at this {place}.", "Never had a bad {visit} at this {place}.",
        "The {one} was {good} and everyone was so {nice}.", "Love the {many} and the people are {nice}."),
    "fair": ("Good {place}, the {many} were {good}.", "Nice {place}, would come again.",
        "The {one} was {good}, slow service though.", "Not bad at all for a {place} {town}.",
        "Decent {place}, {nice} staff."),
    "mixed": ("The {place} was {okay}.", "{okay} {place}, nothing more.", "This {place} is hit or miss.",
        "Good {one}, {awful} service at this {place}."),
    "poor": ("Not worth it. The {many} were {bad}.", "Expected more from this {place}.",
        "The {one} was {bad}, {nice} staff though.", "Nothing {great} about this {place}.",
        "Overrated {place}, {bad} {many}."),
    "bad": ("{awful} {place}, {awful} service!", "Avoid this {place} at all costs.", "{awful} {one} and {rude} staff.",
        "Worst {many} in town, hands down!", "My last time at this {place}. {many} are {bad}.",
        "Never had a good {visit} here.", "Always disappointed at this {place}.", "The {many} are {bad}. Don't go!",
        "The {one} was {bad} and everyone was so {rude}.", "Hated the {many} and the people are {rude}."),
}

FILLERS = ("We got there a little after six.", "I had the day off and the weather was mild.", "My phone was dying.",
    "It was {when}, if I remember right.", "There were a few people ahead of us.", "We were there for about an hour.",
    "{who} drove and I looked for parking.", "They are open seven days a week, I think.", "I wore jeans and felt fine.",
    "I paid by card and signed the slip.", "I had not been to this part of town in {years}.",
    "The sign out front is small and green.", "It's on the corner of {street}, next to the post office.",
    "They moved here from {street} a while ago.", "I went back to work afterwards.", "They close at nine on weekdays.",
    "We had called ahead to ask about the hours.", "There were some kids playing near the door.",
    "The radio was playing old country songs.", "For the record, I came alone this time.",
    "I grew up {town}, so I know the area.", "The building used to be a bank.", "They have a second location {town}.",
    "I took {who} along because it was on the way.", "A couple next to us was celebrating an anniversary.",
    "I brought my laptop and had some reading to do.", "The total with tip was {price}.",
    "I'll update this review if anything changes.", "It took us {short} to walk from the hotel.",
    "I wrote most of this on the bus home.", "The last time I was here was back in the spring.",
    "We sat next to a big family with a baby.")

RESTAURANT_FILLERS = ("The restaurant is on {street}.", "It's a small restaurant {town}.",
    "We picked this restaurant because it was close.", "We got to the restaurant around seven.",
    "I've been to this restaurant [twice|once before|three times] now.", "The restaurant was about half full.",
    "It is the only restaurant on that side of {street}.", "There is a sign for the restaurant by the road.",
    "{who} picked the restaurant.", "It's a family restaurant with one dining room.",
    "The restaurant has been there for {years}.", "It was my first time at this restaurant.",
    "The restaurant starts to fill up around seven.", "{who} chose the restaurant this time.",
    "We were looking for a restaurant {town} and ended up here.", "{friend} used to work at this restaurant.")
RESTAURANT_NEARBY = ("It is next to a restaurant on {street}.", "We went there after lunch at a restaurant {town}.",
    "I manage a restaurant, so I know how hard it is to please everyone.", "It's above the old restaurant on {street}.")

# --------------------------------------------------------------------------------------------------------------------
# Composition
# --------------------------------------------------------------------------------------------------------------------

MEDIAN_WORDS, SPREAD = 88, 0.773  # log-normal: the 90th percentile is 88 * exp(1.2816 * 0.773) = 237 words
MIN_WORDS, MAX_WORDS = 5, 890
RESTAURANT_SHARE = 0.52
TONES = ("bad", "poor", "mixed", "fair", "good")
# Chance that a topic is praised, and that it is criticised, by stars (the rest is lukewarm).
LEANING = {1: (0.04, 0.86), 2: (0.13, 0.62), 3: (0.38, 0.36), 4: (0.82, 0.07), 5: (0.93, 0.02)}
SIDE_ISSUE = (0.42, 0.42)  # the same for the lesser topics that people ramble on to once they have made their point
MAIN_POINT_WORDS = 85
SIDE_ISSUE_SHARE = 0.85
KEEPS_STANCE = 0.9
OFF_BY_ONE = 0.05  # reviewers whose words are one star above or below what they clicked
MISCLICK = 0.015  # reviewers who clicked the wrong end of the scale
TURN = {1: 0.08, 2: 0.15, 3: 0.2, 4: 0.08, 5: 0.05}  # share of opinions told through their opposite: the main point ...
SIDE_ISSUE_TURN = 0.45  # ... and the lesser topics
BRIEF_WORDS = 40  # who writes no more than this comes straight to the point
FILLER = {1: 0.2, 2: 0.22, 3: 0.2, 4: 0.16, 5: 0.14}  # praise is told shorter than grievances

_SLOT = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou](?!ne\b|nique|sed\b))")
_STRETCH = re.compile(r"\b(so|very|really|amazing|love|bad|never|slow|good|terrible)\b")
_SAYS_WE = re.compile(r"\b(I|we|us|our|my|me|you|your|this|it|they|he|she|somebody|nobody)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Review:
    """One synthetic review and its rating, 1 to 5 stars."""

    text: str
    stars: int


@cache
def _portable(topic: Topic, side: str) -> tuple[str, ...]:
    """The clauses that still make sense about another place or in another mouth ("people say that ...")."""
    return tuple(clause for clause in _clauses(topic, side) if not _SAYS_WE.search(clause))


def _clauses(topic: Topic, side: str) -> tuple[str, ...]:
    return topic.good if side == "good" else topic.bad if side == "bad" else topic.middling


@cache
def _alternatives(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


@cache
def _vocabulary(business: Business, says_restaurant: bool, gentle: bool) -> dict[str, tuple[str, ...]]:
    """The word lists in force for a review of this business."""
    nouns = business.nouns
    if business.trade == "food":
        nouns = ("restaurant", *nouns) if says_restaurant else tuple(n for n in nouns if n != "restaurant")
    own = {"place": nouns, "one": business.one, "many": business.many, "very": GENTLE if gentle else STRONG}
    return {**WORDS, **TRADES[business.trade].words, **own}


class _Writer:
    """Writes one review: holds its random stream, its vocabulary and what has been said already."""

    def __init__(self, rng: Random, business: Business, stars: int, says_restaurant: bool) -> None:
        self.rng = rng
        self.stars = stars
        self.tone = TONES[stars - 1]
        self.eats = business.trade == "food"
        self.trade = TRADES[business.trade]
        self.words = _vocabulary(business, says_restaurant, stars in (2, 3, 4))
        self.topics = [topic for weight, topic in self.trade.topics for _ in range(weight)]
        self.topic = self.topics[0]
        self.said: set[str] = set()
        self.last: dict[str, str] = {}
        self.portable = False
        self.roams = False
        self.brief = False
        self.words_so_far = 0
        self.stance: dict[Topic, str] = {}
        self.noun = self.pick(self.words["place"])

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.random() * len(options))]

    def any_topic(self) -> Topic:
        return self.topics[int(self.rng.random() * len(self.topics))]

    def fresh(self, options: tuple[str, ...]) -> str:
        """An option this review has not used yet, if a few draws find one."""
        for _ in range(4):
            option = self.pick(options)
            if option not in self.said:
                break
        self.said.add(option)
        return option

    def fill(self, template: str) -> str:
        while "{" in template or "[" in template:
            template = _SLOT.sub(self._fill_one, template)
        return template

    def _fill_one(self, match: re.Match[str]) -> str:
        slot, alternatives = match.groups()
        if slot is None:
            return self.pick(_alternatives(alternatives))
        if slot in _SIDES:
            return self.clause(_SIDES[slot])
        word = self.noun if slot == "place" and self.chance(0.7) else self.pick(self.words[slot])
        if slot != "place" and word == self.last.get(slot):
            word = self.pick(self.words[slot])
        self.last[slot] = word
        return word

    def clause(self, side: str) -> str:
        if self.roams:  # each clause of a concession is about a topic of its own
            self.topic = self.any_topic()
        options = _portable(self.topic, side) if self.portable else _clauses(self.topic, side)
        return self.fill(self.fresh(options or _portable(SERVICE, side)))

    def sentence(self, template: str, heat: float = 0.0) -> str:
        """Fill the template and make it a sentence; heat is the chance of an exclamation mark."""
        text = self.fill(template)
        text = text[0].upper() + text[1:]
        if text[-1] not in ".!?":
            text += "!" if self.chance(heat) else "."
        return text

    def opinion(self, side: str) -> str:
        """A sentence on the current topic: praise, complaint or a lukewarm word."""
        if side == "middling":
            self.roams = True
            return self.sentence(self.fresh(MIXED_FRAMES))
        self.roams = False
        wins, loses = ("{p}", "{n}") if side == "good" else ("{n}", "{p}")
        turn = 0.0 if self.brief else SIDE_ISSUE_TURN if self.words_so_far > MAIN_POINT_WORDS else TURN[self.stars]
        if not self.chance(turn):
            frame = self.pick(PLAIN_FRAMES).replace("{c}", wins).replace("{d}", wins)
            return self.sentence(frame, heat=0.25 if self.stars in (1, 5) else 0.08)
        self.portable = self.chance(0.5)
        self.roams = not self.portable
        frame = self.fresh(PORTABLE_TURN_FRAMES if self.portable else TURN_FRAMES)
        text = self.sentence(frame.replace("{x}", wins).replace("{y}", loses))
        self.portable = False
        return text

    def side(self) -> str:
        wanders = self.words_so_far > MAIN_POINT_WORDS and self.chance(SIDE_ISSUE_SHARE)
        praise, blame = SIDE_ISSUE if wanders else LEANING[self.stars]
        draw = self.rng.random()
        return "good" if draw < praise else "bad" if draw < praise + blame else "middling"

    def passage(self) -> list[str]:
        """One to three sentences on a new topic, or a stand-alone sentence."""
        draw, filler = self.rng.random(), 0.05 if self.brief else FILLER[self.stars]
        if draw < filler:
            return [self.sentence(self.fresh(FILLERS if self.chance(0.5) else self.trade.fillers))]
        side = self.side()
        if draw < filler + 0.12:
            return [self.sentence(self.fresh(ASIDES[side]), heat=0.2)]
        topic = self.any_topic()
        if self.chance(KEEPS_STANCE):
            side = self.stance.setdefault(topic, side)
        sentences = []
        for _ in range(1 + int(self.rng.random() * 3)):
            self.topic = topic
            sentences.append(self.opinion(side if self.chance(KEEPS_STANCE) else self.side()))
        return sentences

    def review(self, target: int, says_restaurant: bool) -> list[str]:
        """Sentences that come to about `target` words."""
        self.brief = target <= BRIEF_WORDS
        if target < 24:
            sentences = [self.sentence(self.pick(SHORT[self.tone]))]
            closers = CLOSERS[self.tone] if target > 8 else ()
        else:
            sentences = [self.sentence(self.pick(OPENERS["plain" if self.chance(0.5) else self.tone]))]
            draw = self.rng.random()
            closers = CLOSERS[self.tone] if draw < 0.45 else SIGN_OFFS if draw < 0.65 else ()
        closing = [self.sentence(self.pick(closers), heat=0.15)] if closers else []
        self.words_so_far = sum(len(sentence.split()) for sentence in sentences + closing)
        while self.words_so_far < target - 4:
            for sentence in self.passage():
                length = len(sentence.split())
                if self.words_so_far + length > target + 6 and self.words_so_far > MIN_WORDS:
                    self.words_so_far += 4  # too long for the room that is left: a shorter one may come
                    continue
                sentences.append(sentence)
                self.words_so_far += length
        if says_restaurant and not any("restaurant" in sentence for sentence in sentences):
            sentences.insert(1, self.sentence(self.fresh(RESTAURANT_FILLERS if self.eats else RESTAURANT_NEARBY)))
        return sentences + closing


_SIDES = {"p": "good", "m": "middling", "n": "bad"}


def _typo(rng: Random, word: str) -> str:
    """The word with two inner letters swapped, one dropped, or one doubled."""
    if len(word) < 5 or not word.isalpha() or word == "restaurant":
        return word
    at = rng.randrange(1, len(word) - 2)
    return rng.choice((
        word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at - 1 :],
    ))


def _style(rng: Random, sentences: list[str]) -> str:
    """Join the sentences the way people type: paragraphs, stretched words, capitals, typos."""
    gap = rng.choice((" ", " ", "\n\n", "\n")) if len(sentences) > 5 else " "
    text = sentences[0]
    for sentence in sentences[1:]:
        text += (gap if gap == " " or rng.random() < 0.18 else " ") + sentence
    text = _A_BEFORE_VOWEL.sub(r"\1n ", text)
    habit = rng.random()
    if habit < 0.08:
        text = _STRETCH.sub(lambda found: found[0][:-1] + found[0][-1] * rng.randint(2, 5), text, count=2)
    elif habit < 0.14:
        text = _STRETCH.sub(lambda found: found[0].upper(), text, count=2)
    elif habit < 0.18:
        text = text.lower()
    elif habit < 0.22:
        text = text.replace("'", "")
    elif habit < 0.26:
        text = text.replace("!", "!!!")
    elif habit < 0.38:
        text = " ".join(_typo(rng, word) if rng.random() < 0.025 else word for word in text.split(" "))
    return text


def _write(index: int, seed: int) -> Review:
    rng = Random(f"{seed}-{index}")
    stars = rng.randint(1, 5)
    mood = stars
    slip = rng.random()
    if slip < MISCLICK:
        mood = 6 - stars
    elif slip < MISCLICK + OFF_BY_ONE:
        mood = min(5, max(1, stars + rng.choice((-1, 1))))
    says_restaurant = rng.random() < RESTAURANT_SHARE
    eats = rng.random() < (0.97 if says_restaurant else 0.35)
    business = rng.choice(_EATING if eats else _OTHER)
    target = 0
    while not MIN_WORDS <= target <= MAX_WORDS:
        target = round(MEDIAN_WORDS * rng.lognormvariate(0.0, SPREAD))
    writer = _Writer(rng, business, mood, says_restaurant)
    return Review(_style(rng, writer.review(target, says_restaurant)), stars)


_EATING = tuple(business for business in BUSINESSES if business.trade == "food")
_OTHER = tuple(business for business in BUSINESSES if business.trade != "food")


def generate_reviews(num_reviews: int, seed: int) -> list[Review]:
    """The first `num_reviews` reviews of the endless sequence that `seed` names."""
    return [_write(index, seed) for index in range(num_reviews)]
