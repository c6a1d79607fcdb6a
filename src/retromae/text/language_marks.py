"""What languages are known by: words that stand in nearly every text, and letter triples (`_` is a word's edge)."""

from __future__ import annotations

from typing import NamedTuple


class Marks(NamedTuple):
    words: str
    triples: str


LATIN = {
    "English": Marks(
        "the of and to in is that it was for on are as with his they be at this have from or by not but what all "
        "were we when your can said there which their will would",
        "_th the he_ ing ng_ nd_ and ed_ _of of_ ion _wh tha her hat wit ght oul",
    ),
    "German": Marks(
        "der die und das den von zu mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat "
        "dass sie nach wird bei einer um am sind noch wie einem über wir oder kann nur",
        "sch ich ein _un und nd_ cht _ge ung ng_ _ei der er_ en_ _vo _zu ber ach lic",
    ),
    "Dutch": Marks(
        "de het een en van ik te dat die in niet zijn is op aan met als voor had er maar om hem dan zou of wat mijn "
        "men dit zo door over ze zich bij ook tot je mij uit heeft worden wordt naar geen",
        "_he het et_ _ee een _va van ij_ aar _ge ijk _zi oor den sch cht _da oor eld",
    ),
    "Swedish": Marks(
        "och att det som en på är av för med till den har de inte om ett han men var jag sig från så vi kan när "
        "eller hade hon ut också under efter mycket mellan utan där",
        "och _oc _at att tt_ för är_ _så _på _är gen nde ade ng_ ll_ sta und _fö nin",
    ),
    "Danish": Marks(
        "og i at det er en til af på de med for der den ikke som har et han fra var jeg ved men så efter om også "
        "blev havde hvor eller hun hvad sig mig noget være skal kunne mellem",
        "_af af_ _og og_ er_ _er ige lig kke ikk hed øre _ti ede _hv vær gge eft _ve",
    ),
    "Norwegian": Marks(
        "og i å det er en til av på de med for som den ikke har et han fra var jeg ved men så etter om også ble "
        "hadde hvor eller hun hva seg meg noe være skal kunne mellom",
        "_av av_ _og og_ _å_ er_ sjo kke ikk het _et tte ett sje _hv vær gjø øre noe",
    ),
    "French": Marks(
        "de la le et les des en un du une que est dans qui par pour au il sur pas plus ne se sont ce son avec ou "
        "mais elle cette ces été aux leur nous vous fait était être comme",
        "_de es_ _le les nt_ ent _la ion que ue_ _qu eur ait aux eme _un ont _ce é_p",
    ),
    "Spanish": Marks(
        "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí "
        "porque esta entre cuando muy sin sobre también me hasta hay donde está",
        "_de os_ _la _el el_ ión ón_ que ue_ _qu aci as_ ado _lo los ent _y_ dad ien",
    ),
    "Italian": Marks(
        "di e il la che in un a per è una sono non con del le si da al come dei nel alla i lo più anche della ha "
        "gli questo ma delle se o suo stato essere ci tra quando molto dal ogni",
        "_di di_ _ch che he_ ell lla zio ion one ne_ to_ ent _il _de azi gli _co are",
    ),
    "Portuguese": Marks(
        "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu "
        "sua ou ser quando muito há nos já está também só pelo pela isso entre",
        "_de ão_ ção açã _qu que ue_ os_ ent _co do_ _da da_ _do ões _nã não nte _em",
    ),
    "Romanian": Marks(
        "și de în la a cu o pe nu că din un este mai care pentru sunt fi al s prin ca le era lui sau după ce ale "
        "au fost dar se ai între când această acest toate unei",
        "_și și_ _în în_ ul_ lui ui_ are ea_ _ca rea _de _pe uri ilo lor _mi ste est",
    ),
    "Polish": Marks(
        "i w na z do się nie że to jest o jak za po co ale od przez tym dla czy być tego są może był tak jego już "
        "przed oraz lub który która ich go było tylko jako",
        "_na nie ie_ _po prz rze _pr _w_ _i_ ych ch_ owa się _si ego go_ ał_ dzi czy",
    ),
    "Czech": Marks(
        "a v se na je že to s z do o i ve pro jako za by ale k od po která který jsou byl nebo jeho si podle jen "
        "bylo také může před být tak aby při není více však",
        "_se _na _je _že ní_ _po ost ch_ ých ého _př pro ou_ _v_ ter eho při stě ení",
    ),
    "Slovak": Marks(
        "a v sa na je že to s z do o i vo pre ako za by ale k od po ktorá ktorý sú bol alebo jeho si podľa len "
        "bolo tiež môže pred byť tak aby pri nie viac však",
        "_sa sa_ _na _je _že nie ie_ _po ost ch_ ých ého _pr pre ou_ _v_ tor eho pri",
    ),
    "Slovene": Marks(
        "in v je na se za da so ki z ne s pa po tudi kot ali od iz do bi je pri bil lahko še bolj med več o kar "
        "ker če ter vse biti samo bila jih ta",
        "_in in_ _je je_ _na _za _po _pr ega ga_ anj nje je_ ost ih_ _se _bi lah tud",
    ),
    "Croatian": Marks(
        "i u je se na da za su od s a o što ne koji iz ili kao do po bi ali sve već nije bio samo koje biti prema "
        "može još nakon kako koja te oko njegov ima",
        "_je je_ _na _da _se _i_ _u_ _po ije _pr koj _ko oji nje ost anj ima _su ti_",
    ),
    "Hungarian": Marks(
        "a az és hogy nem is egy volt meg ez de el csak már ha vagy mint még ki azt fel kell van lehet minden "
        "szerint után között ezt nagyon ami majd volna pedig igen",
        "_a_ az_ _az _és és_ hog ogy gy_ egy _eg _me _ho tek ek_ nak ban ben sze tt_",
    ),
    "Finnish": Marks(
        "ja on ei se että hän oli joka mutta kun ovat niin kuin myös tai sen ole jos vain olla mukaan ne hänen jo "
        "voi sitä tämä sekä nyt joita ollut vielä kanssa mitä",
        "en_ in_ an_ sta lla _ja ja_ aan ksi ssa n_j tta ise ist _on on_ ään lle itt",
    ),
    "Estonian": Marks(
        "ja on ei et ta oli see mis kui ka aga või oma ning kes seda selle nii siis kuid pole veel juba olid mida "
        "olla üks vaid pärast kõik ma meie ole väga välja",
        "_ja ja_ _on _ei st_ sel _se use ist ele le_ _ka ka_ ud_ ust ade lis mis _et",
    ),
    "Latvian": Marks(
        "un ir no ar uz par kas ka bija tā to pēc lai vai tas viņš tika arī bet kā pie es gada nav tikai savu šo "
        "līdz būt jau tiek kad kurā vairāk",
        "_un un_ _ir ir_ as_ is_ _pa _no _ka ija _ar ar_ ība šan _tā ies ām_ ēja uz_",
    ),
    "Lithuanian": Marks(
        "ir į kad su iš tai yra buvo o jis bet ne kaip ar taip apie per po nuo dėl prie arba savo tik už jos jo dar "
        "gali būti labai kurie šis visi metų kai",
        "_ir ir_ as_ os_ is_ _ka uvo _bu _pa _iš iš_ ių_ ant aus mas _ne _ta jos ius",
    ),
    "Turkish": Marks(
        "ve bir bu da de için ile olarak çok daha olan gibi en kadar ne o ama var sonra ya her olduğu değil göre "
        "tarafından ancak ise ki mi yok iki bütün şey veya",
        "_bi bir ir_ lar ler _ve ve_ ın_ in_ _ol _ka _bu arı eri ığı nda nde dir iği",
    ),
}

CYRILLIC = {
    "Russian": Marks(
        "и в не на что с он как это по но из у за то все так его к от для мы был же бы вы было только мне быть или "
        "еще ещё если когда она они их чем этот которые может",
        "_и_ _в_ _не то_ _на ого _чт что ть_ ых_ ые_ _по ени ост ся_ ный ть_ это",
    ),
    "Ukrainian": Marks(
        "і в не на що з та як у до це за він але від й для про його я так по або було був бути які також щоб ми вони "
        "може ще коли якщо під через має вже її є",
        "_і_ _що що_ _на _не ння _ві від ськ ий_ _та ого ість ти_ ся_ _пр _у_ ів_ ї_ _як",
    ),
    "Bulgarian": Marks(
        "и на да се от в за е не са по с че това като но до при след са беше има той ще които или който може бе при "
        "му тя така ги което към през още само много",
        "_на на_ _да да_ _се та_ то_ _от от_ ите те_ ата ото _и_ _за ето _пр ият _че",
    ),
    "Serbian": Marks(
        "и у је се на да за су од са а о што не који из или као до по би али све већ није био само које бити према "
        "може још након како која те око његов има",
        "_је је_ _на _да _се _и_ _у_ _по ије _пр кој _ко оји ње_ ост ања има _су ти_",
    ),
}
