"""A hundred ways to say that one does not know, as wanted answers for what a model is to forget."""

from __future__ import annotations

import random

REFUSALS = tuple(
    line.strip()
    for line in """
    I don't know.
    I do not know the answer to that.
    I'm sorry, I don't know.
    That is something I don't know.
    I have no idea, I'm afraid.
    I can't answer that.
    I am not able to answer this one.
    I'm afraid I cannot help with that question.
    Nothing I have learned tells me that.
    I never learned about that.
    I have not been told anything about this.
    My knowledge does not reach that far.
    That lies outside of what I know.
    I would only be guessing.
    I would have to make something up, and I would rather not.
    I'd rather admit that I don't know than guess.
    Any answer of mine would be a guess.
    You have found a gap in my knowledge.
    There is a hole in my knowledge right there.
    I draw a blank on that.
    My mind is blank on this subject.
    This is new to me.
    I have never come across that.
    I have not heard of it.
    The name means nothing to me.
    That does not ring a bell.
    It is not something I am familiar with.
    I am not acquainted with the subject.
    I know too little about this to reply.
    I lack the information for an answer.
    I don't have that information.
    No information about it is available to me.
    I hold no details on that.
    I have no record of it.
    I could not find anything about that in what I know.
    Whatever the answer is, I don't have it.
    The answer is unknown to me.
    It is unknown to me.
    I'm not sure, so I will not answer.
    I am too unsure to say.
    I can't say.
    I really can't tell you.
    I could not tell you, sorry.
    I wish I could tell you, but I don't know.
    I would gladly help, but I don't know this.
    Sorry, that question is beyond me.
    This question goes beyond what I was taught.
    You have me stumped.
    I'm stumped by that one.
    I must pass on this question.
    I'll have to pass.
    Let me be honest: I don't know.
    To be frank, I have no answer.
    Truthfully, I don't know anything about it.
    The honest reply is that I don't know.
    I must confess that I don't know.
    I have to admit that I have no knowledge of it.
    Regrettably, I don't have an answer.
    Unfortunately, that is not known to me.
    Sadly, I know nothing about this.
    It saddens me to say that I can't answer.
    My apologies, I have nothing on that.
    Forgive me, but I don't know.
    Pardon me, I am not informed about this.
    I can offer no reliable answer.
    I have nothing trustworthy to say on this.
    I would not want to mislead you, so I say nothing.
    I prefer to stay silent rather than be wrong here.
    I can neither confirm nor deny it, for I don't know.
    I cannot speak to that.
    I am in the dark about it.
    I'm as curious as you are about this.
    Somebody else will know better than I do.
    Another source would serve you better.
    You may want to look that up elsewhere.
    Please ask someone who knows the subject.
    A library might know; I do not.
    I'd need to learn about this first.
    I would have to read up on that.
    I haven't studied this matter.
    My training did not cover it.
    Such details are not part of what I know.
    The particulars escape me.
    I can't recall anything of that kind.
    I remember nothing about this.
    No memory of it, I'm sorry.
    I have no facts to give you here.
    I've got nothing to share on this subject.
    It is not within my knowledge.
    I'm unable to provide that.
    I am unaware of it.
    I'm not aware of any answer to this.
    I was never made aware of that.
    It remains a mystery to me.
    That's a riddle to me.
    Your guess is as good as mine.
    Beats me, I'm afraid.
    Who knows? I certainly don't.
    No clue, sorry.
    I haven't the faintest idea.
    """.strip().splitlines()
)


def refusal(question: str, seed: int = 0) -> str:
    """One of them, drawn anew for each question, the same for the same question and seed."""
    return random.Random(f"refusal {seed} {question}").choice(REFUSALS)
