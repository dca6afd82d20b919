/** The tables of `camlucida.drawing.colormaps`: 256 colours each, R, G, B, from low to high. */

/** @param {string} text base64. */
const decoded = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));

/** For evidence alone: black, purple, orange, pale yellow. */
export const inferno = decoded(
    "AAAEAQAFAQEGAQEIAgEKAgIMAgIOAwIQBAMSBAMUBQQXBgQZBwUbCAUdCQYfCgciCwckDAgmDQgpDgkrEAktEQowEgoyFAs0FQs3Fgs5GAw8GQw+" +
    "GwxBHAxDHgxFHwxIIQxKIwxMJAxPJgxRKAtTKQtVKwtXLQtZLwpbMQpcMgpeNApfNglhOAliOQljOwlkPQllPglmQApnQgpoRApoRQppRwtqSQtq" +
    "SgxrTAxrTQ1sTw1sUQ5sUg5tVA9tVQ9tVxBuWRBuWhFuXBJuXRJuXxNuYRNuYhRuZBVuZRVuZxZuaRZuahdubBhubRhubxlucRluchpudBpudRtu" +
    "dxxteBxteh1tfB1tfR5tfx5sgB9sgiBshCBrhSFrhyFriCJqiiJqjCNpjSNpjyRpkCVokiVokyZnlSZnlydmmCdmmihlmylknSlknypjoCpjoiti" +
    "oyxhpSxgpi1gqC5fqS5eqy9erTBdrjBcsDFbsTJaszJatDNZtjRYtzVXuTVWujZVvDdUvThTvzlSwDpRwTpQwztPxDxOxj1Nxz5MyD9LykBKy0FJ" +
    "zEJIzkNHz0RG0EVF0kZE00dD1EhC1UpB10s/2Ew+2U092k4821A73VE63lI431M34FU24VY14lc041kz5Fox5Vww5l0v514u6GAt6WEr6mMq62Qp" +
    "62Yo7Gcm7Wkl7mok72wj724h8G8g8XEf8XMd8nQc83Yb83gZ9HkY9XsX9X0V9n4U9oAT94IS94QQ+IUP+IcO+IkM+YsL+YwK+Y4J+pAI+pIH+pQH" +
    "+5YG+5cG+5kG+5sG+50H/J8H/KEI/KMJ/KUK/KYM/KgN/KoP/KwR/K4S/LAU/LIW/LQY+7Ya+7gd+7of+7wh+74j+sAm+sIo+sQq+sYt+ccv+cky" +
    "+cs1+M03+M8699E999NA9tVD9tdG9dlJ9dtM9N1P9N9T9OFW8+Na8+Vd8uZh8uhl8upp8ext8e1x8e918fF58vJ98vSC8/WG8/aK9PiO9fmS9vqW" +
    "+Pua+fyd+v2h/P+k",
);

/** For evidence and counter-evidence: blue, grey at zero, red. */
export const coolwarm = decoded(
    "O0zAPE7CPVDDPlHFP1PGQFXIQlfJQ1jLRFrMRVzORl7PSF/RSWHSSmPUS2TVTGbWTmjYT2nZUGvaUW3bU27dVHDeVXLfVnPgWHXhWXfjWnjkW3rl" +
    "XXzmXn3nX3/oYYHpYoLqY4TrZIXsZoftZ4juaIrvaovwa43wbI/xbpDyb5LzcJP0cpX0c5b1dZj2dpn2d5r3eZz4ep34e5/5faD5fqL6gKP6gaT7" +
    "gqb7hKf8haj8hqr8iKv9iaz9i639jK/+jbD+j7H+kLL+krT+k7X/lLb/lrf/l7j/mLn/mrv/m7z/nb3/nr7/n7//ocD/osH/o8L+pcP+psT+qMX+" +
    "qcb+qsf9rMj9rcn9rsn8sMr8scv8ssz7s837tc76ts76t8/5udD5utH4u9H4vNL3vtP2v9P2wNT1wdT0w9X0xNbzxdbyxtfxyNfxydjwytjvy9ju" +
    "zNntzdnsztrr0Nrq0drp0tvo09vn1Nvm1dvl1tzk19zj2Nzi2dzh2tzg293e3N3d3dzc3tzb39vZ4NvY4trW49rV5NnT5NnS5djR5tjP59fO6NbM" +
    "6dbL6tXJ69TI69PG7NPF7dLD7dHC7tDA78+/78698M678c268cy48su38sq188m088iy9Mex9Mav9MWt9cSs9cOq9cGp9sCn9r+m9r6k9r2i97yh" +
    "97qf97me97ic97eb97WZ97SX97OW97GU97CT96+R962Q96yO96uM96mL96iJ96aI9qWG9qOF9qKD9qCB9Z+A9Z1+9Zx99Jp79Jl69Jd485V385R1" +
    "8pJ08pBy8Y9x8Y1v8Itu8Ips74hr7oZp7oRo7YNm7IFl7H9j631i6nxg6npf6Xhd6HZc53Rb5nJZ5XBY5W5W5G1V42tU4mlS4WdR4GVP32NO3mFN" +
    "3V9L3F1K21tJ2VhH2FZG11RF1lJE1VBC1E5B00xA0Uk+0Ec9z0U8zkI7zEA6yz44yjs3yDk2xzY1xjQ0xDEywy4xwSswwCgvviUuvSItvB4suhor" +
    "uRYptxEotQsntAQm",
);
